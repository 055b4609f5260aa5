//! What connections to other machines share: who they say they are, and whose certificates they trust. This crate is
//! internal to Querywright and has no stable interface: depend on `querywright` instead.
//!
//! Trusted is the system's store, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name in its place, as with curl and Python's
//! clients: a company whose proxy opens connections has its authority there. Where the store holds nothing, as in a bare
//! container, it is Mozilla's list, which the program carries. What a variable names and cannot be read is an error: another
//! list in its place could trust more than was asked for.
#![deny(missing_docs, missing_debug_implementations)]

use std::sync::OnceLock;

use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

/// Variables that name certificates in place of the system's store.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// The settings of a client, to be completed by those that its caller needs. A status above 399 is an answer and no error.
///
/// # Errors
/// What is wrong, where a variable names certificates and none can be read.
pub fn client() -> Result<ConfigBuilder<AgentScope>, String> {
    static TRUSTED: OnceLock<Result<RootCerts, String>> = OnceLock::new();
    let trusted = TRUSTED.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let named = VARIABLES.into_iter().find(|variable| std::env::var_os(variable).is_some_and(|v| !v.is_empty()));
        roots(found.certs.iter().map(AsRef::as_ref), named, found.errors.first())
    });
    Ok(ureq::Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(trusted.clone()?).build())
        .http_status_as_error(false)
        .user_agent(concat!("querywright/", env!("CARGO_PKG_VERSION"))))
}

/// The roots that are trusted where these certificates were found. `named` is the variable that says where to look.
fn roots<'a>(
    found: impl Iterator<Item = &'a [u8]>,
    named: Option<&str>,
    error: Option<&impl std::fmt::Display>,
) -> Result<RootCerts, String> {
    let certificates: Vec<Certificate<'static>> = found.map(|der| Certificate::from_der(der).to_owned()).collect();
    match named {
        _ if !certificates.is_empty() => Ok(RootCerts::new_with_certs(&certificates)),
        None => Ok(RootCerts::WebPki),
        Some(variable) => {
            let why = error.map_or_else(String::new, |error| format!(" ({error})"));
            Err(format!("{variable} names no certificate that can be read{why}; correct it, or unset it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_store_is_trusted_and_where_it_is_empty_the_list_of_the_program() {
        let none = None::<&String>;
        assert!(matches!(roots([].into_iter(), None, none), Ok(RootCerts::WebPki)));
        let stored: [&[u8]; 2] = [b"one", b"two"];
        match roots(stored.into_iter(), None, none) {
            Ok(RootCerts::Specific(certificates)) => {
                let der: Vec<&[u8]> = certificates.iter().map(Certificate::der).collect();
                assert_eq!(der, stored);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_variable_that_names_nothing_readable_is_no_reason_to_trust_another_list() {
        let error = "no such file".to_owned();
        let said = roots([].into_iter(), Some("SSL_CERT_FILE"), Some(&error)).unwrap_err();
        assert!(said.contains("SSL_CERT_FILE") && said.contains("no such file"), "{said}");
    }
}
