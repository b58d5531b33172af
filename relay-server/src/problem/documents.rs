//! `docs/errors.md` is made from the catalogue; this test says when it no longer is.

use std::{fmt::Write as _, fs, path::PathBuf};

use protocol::code::Area;

use super::{Code, status};

const HEAD: &str = "\
# Errors

Made from the catalogue in `protocol/src/code/catalogue.rs`; do not edit. After a change run
`HOOKFERRY_WRITE_DOCS=1 cargo test -p relay-server errors_page`.

Every error of relay and agent has one of these codes, in answers of the API, on the command line and in
logs. Codes are stable, the words around them are not. `relay-agent explain CODE` and
`relay-server explain CODE` print the same without a network; without a code they list them all.

*Status* is the HTTP status of the relay's answer. *Exit* is how a command ends with it; an agent that
serves does not end with 5 but keeps trying.
";

#[test]
fn errors_page_is_up_to_date() {
    let page = page();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    if std::env::var_os("HOOKFERRY_WRITE_DOCS").is_some() {
        fs::write(&file, &page).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == page,
        "docs/errors.md differs from the catalogue; its first lines say how to renew it"
    );
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for area in Area::ALL {
        let _ = write!(page, "\n## {}\n", area.title());
        for code in Code::ALL.iter().filter(|code| code.area() == area) {
            let _ = write!(
                page,
                "\n### {code}\n\n**{}.** {}\n\nFix: {}.\n\n*{}Exit {}*\n",
                code.title(),
                code.meaning(),
                code.fix(),
                status(*code).map_or(String::new(), |status| format!(
                    "Status {}. ",
                    status.as_u16()
                )),
                code.exit().code(),
            );
        }
    }
    page
}
