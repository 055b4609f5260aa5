//! What connections to other machines share: who they say they are, and whose certificates they trust. This crate is
//! internal to Querywright and has no stable interface: depend on `querywright` instead.
//!
//! Trusted is the system's store, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name in its place, as with curl and Python's
//! clients: a company whose proxy opens connections has its authority there. Where the store holds nothing, as in a bare
//! container, it is Mozilla's list, which the program carries.
#![deny(missing_docs, missing_debug_implementations)]

use std::sync::OnceLock;

use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

/// The settings of a client, to be completed by those that its caller needs. A status above 399 is an answer and no error.
pub fn client() -> ConfigBuilder<AgentScope> {
    static TRUSTED: OnceLock<RootCerts> = OnceLock::new();
    let trusted =
        TRUSTED.get_or_init(|| roots(rustls_native_certs::load_native_certs().certs.iter().map(AsRef::as_ref)));
    ureq::Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(trusted.clone()).build())
        .http_status_as_error(false)
        .user_agent(concat!("querywright/", env!("CARGO_PKG_VERSION")))
}

/// The roots that are trusted where the system's store has these certificates.
fn roots<'a>(store: impl Iterator<Item = &'a [u8]>) -> RootCerts {
    let certificates: Vec<Certificate<'static>> = store.map(|der| Certificate::from_der(der).to_owned()).collect();
    if certificates.is_empty() { RootCerts::WebPki } else { RootCerts::new_with_certs(&certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_store_is_trusted_and_where_it_is_empty_the_list_of_the_program() {
        assert!(matches!(roots([].into_iter()), RootCerts::WebPki));
        let stored: [&[u8]; 2] = [b"one", b"two"];
        match roots(stored.into_iter()) {
            RootCerts::Specific(certificates) => {
                let der: Vec<&[u8]> = certificates.iter().map(Certificate::der).collect();
                assert_eq!(der, stored);
            }
            other => panic!("{other:?}"),
        }
    }
}
