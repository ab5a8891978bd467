//! How a client's connections are made beside its address policy: whom it trusts, what it shows of itself, and through
//! which proxy it goes.
//!
//! Guarantees: what is accepted here can be used; messages show nothing of a certificate, key or password.

use std::fmt;

use reqwest::{Certificate, Client, ClientBuilder, Identity, Proxy};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use url::Url;

/// A way to make connections. The default trusts the machine's roots, shows nothing and goes straight.
#[derive(Clone, Default)]
pub struct Route {
    trusted: Option<Vec<Certificate>>,
    identity: Option<Identity>,
    proxy: Option<(Url, Proxy)>,
}

/// Certificates, keys or proxies that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidRoute {
    /// The text holds no certificate, or one that cannot be read.
    #[error("not a list of certificates in PEM: a text of one or more -----BEGIN CERTIFICATE-----")]
    Certificates,
    /// The key stands under a passphrase.
    #[error("the key is under a passphrase")]
    Encrypted,
    /// The text holds no private key.
    #[error("not a private key in PEM: a text that begins with -----BEGIN PRIVATE KEY-----")]
    Key,
    /// Certificate and key do not belong together, or are of a kind that is not known.
    #[error("the certificate and the key do not belong together")]
    Mismatch,
    /// Not a proxy that can be used.
    #[error("not a proxy that can be used")]
    Proxy,
}

impl Route {
    /// Trusts these certificate authorities, in place of the machine's.
    ///
    /// # Errors
    /// [`InvalidRoute::Certificates`].
    pub fn trusting(mut self, pem: &str) -> Result<Self, InvalidRoute> {
        let found = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|_| InvalidRoute::Certificates)?;
        if found.is_empty() || usable(Client::builder().tls_certs_only(found.clone())).is_err() {
            return Err(InvalidRoute::Certificates);
        }
        self.trusted = Some(found);
        Ok(self)
    }

    /// Shows this certificate, followed by those that lead to its authority, to a server that asks for one.
    ///
    /// # Errors
    /// [`InvalidRoute`], which says which of the two is at fault.
    pub fn showing(mut self, certificates: &str, key: &SecretString) -> Result<Self, InvalidRoute> {
        let key = key.expose_secret().trim();
        if key.contains("ENCRYPTED") {
            return Err(InvalidRoute::Encrypted);
        }
        if !key.starts_with("-----BEGIN ") || !key.contains("PRIVATE KEY-----") {
            return Err(InvalidRoute::Key);
        }
        let found = Certificate::from_pem_bundle(certificates.as_bytes());
        if !found.is_ok_and(|found| !found.is_empty()) {
            return Err(InvalidRoute::Certificates);
        }
        let both = SecretString::from(format!("{}\n{key}\n", certificates.trim()));
        let identity = Identity::from_pem(both.expose_secret().as_bytes()).map_err(|_| InvalidRoute::Key)?;
        let tried = Client::builder().tls_certs_only([]).identity(identity.clone());
        usable(tried).map_err(|()| InvalidRoute::Mismatch)?;
        self.identity = Some(identity);
        Ok(self)
    }

    /// Goes through an HTTP proxy by CONNECT; only https goes there. One with an https address is itself spoken to over
    /// TLS: its certificate is judged as a server's is, and it is shown ours if it asks for one.
    ///
    /// # Errors
    /// [`InvalidRoute::Proxy`].
    pub fn through(
        mut self,
        proxy: &Url,
        login: Option<(&str, &SecretString)>,
    ) -> Result<Self, InvalidRoute> {
        let mut made = Proxy::https(proxy.clone()).map_err(|_| InvalidRoute::Proxy)?;
        if let Some((user, password)) = login {
            made = made.basic_auth(user, password.expose_secret());
        }
        self.proxy = Some((proxy.clone(), made));
        Ok(self)
    }

    /// The proxy's address, if any.
    pub(super) fn proxy(&self) -> Option<&Url> {
        self.proxy.as_ref().map(|(url, _)| url)
    }

    /// Whether it is the default.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.trusted.is_none() && self.identity.is_none() && self.proxy.is_none()
    }

    /// Makes a client's connections this way; only what goes over TLS is changed.
    pub(super) fn apply(&self, mut builder: ClientBuilder) -> ClientBuilder {
        if let Some(trusted) = &self.trusted {
            builder = builder.tls_certs_only(trusted.clone());
        }
        if let Some(identity) = &self.identity {
            builder = builder.identity(identity.clone());
        }
        if let Some((_, proxy)) = &self.proxy {
            builder = builder.proxy(proxy.clone());
        }
        builder
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxy = self.proxy().and_then(Url::host_str).unwrap_or("-");
        f.debug_struct("Route")
            .field("own_authorities", &self.trusted.is_some())
            .field("own_certificate", &self.identity.is_some())
            .field("proxy", &proxy)
            .finish()
    }
}

fn usable(builder: ClientBuilder) -> Result<(), ()> {
    builder.no_proxy().build().map(drop).map_err(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_or_key_is_refused_before_anything_is_sent() {
        let pem = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        for text in [
            String::new(),
            "hunter2".to_owned(),
            pem("CERTIFICATE"),
            pem("PRIVATE KEY"),
        ] {
            let refused = Route::default().trusting(&text).unwrap_err();
            assert_eq!(refused, InvalidRoute::Certificates, "{text}");
        }
        let showing = |certificate: &str, key: &str| {
            let key = SecretString::from(key);
            Route::default().showing(certificate, &key).unwrap_err()
        };
        assert_eq!(showing("", "hunter2"), InvalidRoute::Key);
        assert_eq!(showing("", &pem("CERTIFICATE")), InvalidRoute::Key);
        assert_eq!(
            showing("", &pem("ENCRYPTED PRIVATE KEY")),
            InvalidRoute::Encrypted
        );
        assert_eq!(showing("", &pem("PRIVATE KEY")), InvalidRoute::Certificates);
        let proxy = Url::parse("http://proxy.example:3128").unwrap();
        let login = ("courier", &SecretString::from("hunter2"));
        let through = Route::default().through(&proxy, Some(login)).unwrap();
        assert!(!format!("{through:?}").contains("hunter2") && !through.is_plain());
    }
}
