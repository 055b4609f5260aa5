//! What a plugin asks for, what its embedder grants, and the intersection of both.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use querywright_types::{Error, Result};

/// The `[capabilities]` of a manifest: the host interfaces that a plugin wants. Default: none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// Lines to the host's log.
    pub log: bool,
    /// The host's text encoder.
    pub embed: bool,
    /// Names of read-only bytes that the host keeps.
    pub artifact: BTreeSet<String>,
    /// Hosts that it sends HTTP requests to: `api.example.com` or `localhost:8080`, without a scheme or a path.
    pub http: BTreeSet<String>,
}

/// What an embedder allows plugins. Default: no host interface, and the default limits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// Lines to the host's log.
    pub log: bool,
    /// The host's text encoder.
    pub embed: bool,
    /// Names of artifacts that may be read.
    pub artifact: BTreeSet<String>,
    /// Hosts that HTTP requests may be sent to, spelled as in a manifest.
    pub http: BTreeSet<String>,
    /// Upper bounds on what a plugin uses.
    pub limits: Limits,
}

/// What a plugin may do: what it asked for and was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// Lines to the host's log.
    pub log: bool,
    /// The host's text encoder.
    pub embed: bool,
    /// Names of artifacts that may be read.
    pub artifact: BTreeSet<String>,
    /// Hosts that HTTP requests may be sent to.
    pub http: BTreeSet<String>,
    /// Upper bounds on what a plugin uses.
    pub limits: Limits,
}

impl Capabilities {
    /// Whether it may use any host interface.
    pub fn any(&self) -> bool {
        self.log || self.embed || !self.artifact.is_empty() || !self.http.is_empty()
    }
}

impl Wanted {
    /// Lower-cases the hosts. Refuses hosts and artifact names that are not well formed.
    pub(super) fn checked(mut self) -> Result<Self> {
        self.http = self.http.iter().map(|host| host.to_ascii_lowercase()).collect();
        if let Some(host) = self.http.iter().find(|host| !is_host(host)) {
            let remedy = "write a host such as \"api.example.com\" or \"localhost:8080\", without scheme, path or *";
            return Err(Error::argument("capabilities.http", format!("\"{host}\" is not a host"), remedy));
        }
        // An embedder may use the name of an artifact as a file name.
        let plain = |name: &str| {
            !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if let Some(name) = self.artifact.iter().find(|name| name.is_empty() || !plain(name)) {
            let remedy = "use letters, digits, dots, dashes and underscores; no dot first";
            return Err(Error::argument("capabilities.artifact", format!("\"{name}\" is not a name"), remedy));
        }
        Ok(self)
    }

    /// The intersection with a grant, and the smaller of each limit.
    pub(super) fn granted(&self, limits: &Limits, grant: &Grant) -> Capabilities {
        let both =
            |wanted: &BTreeSet<String>, granted: &BTreeSet<String>| wanted.intersection(granted).cloned().collect();
        Capabilities {
            log: self.log && grant.log,
            embed: self.embed && grant.embed,
            artifact: both(&self.artifact, &grant.artifact),
            http: both(&self.http, &grant.http),
            limits: limits.at_most(&grant.limits),
        }
    }
}

/// A DNS name or an IPv4 address, with a port or without.
fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|p| p > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn a_plugin_gets_only_what_it_asked_for_and_was_granted() {
        let wanted = Wanted { log: true, embed: false, artifact: set(&["a", "b"]), http: set(&["x.org", "y.org"]) };
        let limits = Limits { memory_mib: 512, call_ms: 10, ..Limits::default() };
        let grant = Grant {
            log: false,
            embed: true,
            artifact: set(&["b", "c"]),
            http: set(&["y.org:8080", "x.org"]),
            limits: Limits { memory_mib: 300, ..Limits::default() },
        };
        let got = wanted.granted(&limits, &grant);
        assert!(!got.log && !got.embed);
        assert_eq!((got.artifact, got.http), (set(&["b"]), set(&["x.org"])));
        assert_eq!((got.limits.memory_mib, got.limits.call_ms), (300, 10));
    }

    #[test]
    fn nothing_is_granted_by_default() {
        let wanted = Wanted { log: true, embed: true, artifact: set(&["a"]), http: set(&["x.org"]) };
        let got = wanted.granted(&Limits::default(), &Grant::default());
        assert!(!got.log && !got.embed && got.artifact.is_empty() && got.http.is_empty());
    }

    #[test]
    fn hosts_and_artifact_names_that_could_name_something_else_are_refused() {
        for host in
            ["", "*", "*.org", "http://x.org", "x.org/path", "x.org:0", "x.org:99999", "a..b", "-x.org", "user@x.org"]
        {
            assert!(Wanted { http: set(&[host]), ..Wanted::default() }.checked().is_err(), "{host}");
        }
        for name in ["", "../x", "a/b", ".hidden", "a\0b"] {
            assert!(Wanted { artifact: set(&[name]), ..Wanted::default() }.checked().is_err(), "{name}");
        }
        let fine = Wanted {
            http: set(&["API.Example.com", "127.0.0.1:80"]),
            artifact: set(&["model.bin"]),
            ..Wanted::default()
        };
        assert_eq!(fine.checked().unwrap().http, set(&["127.0.0.1:80", "api.example.com"]));
    }
}
