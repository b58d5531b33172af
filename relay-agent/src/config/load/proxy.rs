//! Which proxy leads to the relay: flag, then file, then what every program of the machine reads.

use std::{ffi::OsString, path::Path};

use super::{Environment, Origins, invalid, token};
use crate::{
    args::LinkArgs,
    config::{
        Credentials, FileConfig, Proxy, ProxyConfig, ProxyOrigin, ServerUrl, proxy::is_excluded,
    },
    explain::Failure,
};

/// Longest password file, in bytes; what a proxy takes is shorter.
const PASSWORD_FILE_BYTES_MAX: usize = 1024;

/// Says that there is no proxy, whatever else is set.
const OFF: &str = "off";

/// Finds the proxy that leads to `server`, if any. Whoever names a proxy for this program alone means
/// it; only what is meant for all programs is subject to `NO_PROXY`, and never leads to this machine.
pub(super) fn find(
    args: &LinkArgs,
    file: &FileConfig,
    server: &ServerUrl,
    environment: &impl Environment,
    origins: &mut Origins,
) -> Result<Option<ProxyConfig>, Failure> {
    let found = named(args, file, environment)?;
    let is_explicit = found.is_some();
    let found = found.or_else(|| of_all_programs(server, environment));
    let Some((text, origin)) = found else {
        return Ok(None);
    };
    let no_proxy = file.proxy.no_proxy.clone().unwrap_or_default();
    let is_off = text == OFF
        || match origin {
            ProxyOrigin::File => is_excluded(&no_proxy, &server.host, server.port),
            _ if is_explicit => false,
            _ => {
                let list = variable(&["NO_PROXY", "no_proxy"], environment);
                let list = list.map_or(String::new(), |(list, _)| list);
                server.is_loopback()
                    || is_excluded(&format!("{no_proxy},{list}"), &server.host, server.port)
            }
        };
    if is_off {
        let shown = format!("none for {}", server.host);
        origins.0.push(("proxy", shown, origin.name()));
        return Ok(None);
    }
    let mut proxy: Proxy = text
        .parse()
        .map_err(|wrong| invalid(origin.name(), wrong))?;
    if origin == ProxyOrigin::Flag && proxy.has_password() {
        return Err(invalid(
            origin.name(),
            "every user of this machine can read the command line".to_owned(),
        )
        .fix("leave only the user name in --proxy, and give --proxy-password-file FILE"));
    }
    read_password(&mut proxy, args, file, environment)?;
    origins.0.push(("proxy", proxy.to_string(), origin.name()));
    Ok(Some(ProxyConfig { proxy, origin }))
}

/// A proxy that is named for this program.
fn named(
    args: &LinkArgs,
    file: &FileConfig,
    environment: &impl Environment,
) -> Result<Option<(String, ProxyOrigin)>, Failure> {
    if let Some(text) = &args.proxy {
        return Ok(Some((text.clone(), ProxyOrigin::Flag)));
    }
    if let Some(found) = variable(&["HOOKFERRY_PROXY"], environment) {
        return Ok(Some(found));
    }
    let Some(text) = &file.proxy.url else {
        return Ok(None);
    };
    if text.parse().is_ok_and(|proxy: Proxy| proxy.has_password()) {
        return Err(invalid(
            ProxyOrigin::File.name(),
            "a password does not belong into this file".to_owned(),
        )
        .fix("leave only the user name in url, and set [proxy] password_file"));
    }
    Ok(Some((text.clone(), ProxyOrigin::File)))
}

fn of_all_programs(
    server: &ServerUrl,
    environment: &impl Environment,
) -> Option<(String, ProxyOrigin)> {
    let names: &[&'static str] = match server.tls {
        true => &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        // In a CGI program HTTP_PROXY is a header of the request, written by whoever sent it.
        false if environment.variable("REQUEST_METHOD").is_some() => {
            &["http_proxy", "ALL_PROXY", "all_proxy"]
        }
        false => &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    variable(names, environment)
}

/// The first variable that is set.
fn variable(
    names: &[&'static str],
    environment: &impl Environment,
) -> Option<(String, ProxyOrigin)> {
    names.iter().find_map(|name| {
        let value: OsString = environment.variable(name)?;
        // What is not UTF-8 is not a URL either, and is refused as such.
        let value = value.to_string_lossy().trim().to_owned();
        (!value.is_empty()).then_some((value, ProxyOrigin::Variable(name)))
    })
}

/// Completes a user name by the password of a file or a credential.
fn read_password(
    proxy: &mut Proxy,
    args: &LinkArgs,
    file: &FileConfig,
    environment: &impl Environment,
) -> Result<(), Failure> {
    let credential = environment
        .variable("CREDENTIALS_DIRECTORY")
        .map(|directory| Path::new(&directory).join("proxy_password"))
        .filter(|path| path.exists());
    let path = args.proxy_password_file.clone().or(credential);
    let Some(path) = path.or(file.proxy.password_file.clone()) else {
        return Ok(());
    };
    if proxy.has_password() {
        return Ok(());
    }
    let unusable =
        |what: String| invalid("proxy.password_file", format!("{}: {what}", path.display()));
    let Some(credentials) = &proxy.credentials else {
        return Err(unusable("there is a password but no user name".to_owned())
            .fix("name the user in the URL of the proxy: http://USER@proxy.example:3128"));
    };
    let text = token::read_start(&path, PASSWORD_FILE_BYTES_MAX)
        .map_err(|error| unusable(error.to_string()))?;
    let password = text.trim_end_matches(['\r', '\n']);
    let complete = Credentials::new(credentials.user.clone(), password);
    proxy.credentials = Some(complete.map_err(unusable)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::explain::Code;

    struct Variables(HashMap<&'static str, String>);

    impl Environment for Variables {
        fn variable(&self, name: &str) -> Option<OsString> {
            self.0.get(name).map(OsString::from)
        }

        fn host_name(&self) -> Option<String> {
            None
        }

        fn standard_input(&self) -> std::io::Result<String> {
            Ok(String::new())
        }
    }

    fn choose(
        server: &str,
        flag: Option<&str>,
        file: &str,
        variables: &[(&'static str, &str)],
    ) -> Result<Option<ProxyConfig>, Failure> {
        let args = LinkArgs {
            proxy: flag.map(str::to_owned),
            ..LinkArgs::default()
        };
        let file = FileConfig::parse(file, Path::new("agent.toml")).unwrap();
        let variables = variables
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        let mut origins = Origins::default();
        let environment = Variables(variables.collect());
        let found = find(
            &args,
            &file,
            &server.parse().unwrap(),
            &environment,
            &mut origins,
        );
        assert!(!format!("{origins:?}{found:?}").contains("sEcret"));
        found
    }

    fn chosen(
        server: &str,
        flag: Option<&str>,
        file: &str,
        variables: &[(&'static str, &str)],
    ) -> String {
        match choose(server, flag, file, variables).unwrap() {
            Some(found) => format!("{} {}", found.proxy.host, found.origin.name()),
            None => "direct".to_owned(),
        }
    }

    const TLS: &str = "https://relay.example.com";
    const PLAIN: &str = "http://relay.example.com";

    #[test]
    fn variables_by_scheme_and_case() {
        let all = [
            ("HTTPS_PROXY", "http://S"),
            ("https_proxy", "http://s"),
            ("HTTP_PROXY", "http://P"),
            ("http_proxy", "http://p"),
            ("ALL_PROXY", "http://A"),
            ("all_proxy", "http://a"),
        ];
        assert_eq!(chosen(TLS, None, "", &all), "S HTTPS_PROXY");
        assert_eq!(chosen(TLS, None, "", &all[1..]), "s https_proxy");
        assert_eq!(chosen(TLS, None, "", &all[2..]), "A ALL_PROXY");
        assert_eq!(chosen(TLS, None, "", &all[5..]), "a all_proxy");
        assert_eq!(chosen(PLAIN, None, "", &all), "P HTTP_PROXY");
        assert_eq!(chosen(PLAIN, None, "", &all[3..]), "p http_proxy");
        assert_eq!(chosen(PLAIN, None, "", &all[4..]), "A ALL_PROXY");
        assert_eq!(chosen(PLAIN, None, "", &all[..2]), "direct");
        let cgi = [&all[..], &[("REQUEST_METHOD", "GET")]].concat();
        assert_eq!(chosen(PLAIN, None, "", &cgi), "p http_proxy");
        assert_eq!(chosen(TLS, None, "", &[("HTTPS_PROXY", " ")]), "direct");
    }

    #[test]
    fn who_is_more_special_wins() {
        let file = "[proxy]\nurl = \"http://file\"\nno_proxy = \"a.example\"";
        let system = [("HTTPS_PROXY", "http://env"), ("NO_PROXY", "example.com")];
        let own = [system[0], system[1], ("HOOKFERRY_PROXY", "http://own")];
        assert_eq!(chosen(TLS, Some("http://flag"), file, &own), "flag --proxy");
        assert_eq!(chosen(TLS, None, file, &own), "own HOOKFERRY_PROXY");
        assert_eq!(chosen(TLS, None, file, &system), "file [proxy] url");
        assert_eq!(chosen(TLS, None, "", &system), "direct");
        assert_eq!(chosen(TLS, None, "", &system[..1]), "env HTTPS_PROXY");
        assert_eq!(chosen(TLS, Some("off"), file, &own), "direct");
        assert_eq!(
            chosen(TLS, None, "[proxy]\nurl = \"off\"", &system),
            "direct"
        );
    }

    #[test]
    fn exclusions_are_those_of_the_same_place() {
        let proxy = [("HTTPS_PROXY", "http://env"), ("ALL_PROXY", "http://env")];
        let file = |url: &str| format!("[proxy]\n{url}\nno_proxy = \"example.com\"");
        assert_eq!(chosen(TLS, None, &file(""), &proxy), "direct");
        assert_eq!(
            chosen(TLS, None, &file("url = \"http://f\""), &[]),
            "direct"
        );
        let lower = [proxy[0], ("no_proxy", "relay.example.com:443")];
        assert_eq!(chosen(TLS, None, "", &lower), "direct");
        let other_port = [proxy[0], ("no_proxy", "relay.example.com:8443")];
        assert_eq!(chosen(TLS, None, "", &other_port), "env HTTPS_PROXY");
        // No proxy of the network leads back to this machine, unless somebody says so.
        assert_eq!(chosen("http://127.0.0.1:8080", None, "", &proxy), "direct");
        assert_eq!(
            chosen("http://localhost", Some("http://flag"), "", &proxy),
            "flag --proxy"
        );
    }

    #[test]
    fn passwords_come_from_a_file_or_the_environment() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "sEcret two\n").unwrap();
        let file = |user: &str| {
            let path = path.display();
            format!("[proxy]\nurl = \"http://{user}p\"\npassword_file = \"{path}\"")
        };
        let password = |result: Result<Option<ProxyConfig>, Failure>| {
            let credentials = result.unwrap().unwrap().proxy.credentials.unwrap();
            credentials.password().to_owned()
        };
        assert_eq!(password(choose(TLS, None, &file("u@"), &[])), "sEcret two");
        let variable = [("HTTPS_PROXY", "http://u:sEcret@p")];
        assert_eq!(password(choose(TLS, None, "", &variable)), "sEcret");

        let wrong = [
            choose(TLS, Some("http://u:sEcret@p"), "", &[]),
            choose(TLS, None, "[proxy]\nurl = \"http://u:sEcret@p\"", &[]),
            choose(TLS, None, &file(""), &[]),
            choose(TLS, None, "", &[("HTTPS_PROXY", "ftp://u:sEcret@p")]),
        ];
        for result in wrong {
            let failure = result.unwrap_err();
            assert_eq!(failure.code, Code::ConfigValue);
            assert!(!format!("{failure}{failure:?}").contains("sEcret"));
        }
    }
}
