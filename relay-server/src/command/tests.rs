use super::*;

#[test]
fn tables_are_aligned_and_do_not_trail() {
    let mut table = output::Table::new(&["NAME", "ID"]);
    table.row(["a".to_owned(), "1".to_owned()]);
    table.row(["longer".to_owned(), String::new()]);
    assert_eq!(table.to_string(), "NAME    ID\na       1\nlonger\n");
}
