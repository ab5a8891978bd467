//! A certificate authority of a test, and a TLS server that hands all that passes on to a sandbox.

use std::net::SocketAddr;
use std::sync::Arc;

use courier_sdk::Clock;
use ehr_courier::clock::SystemClock;
use ehr_courier::sandbox::{self, Access, Ehr, Options, Pace};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

/// Signs certificates.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(super) struct Signed {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// For how long a certificate holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Still,
    NoMore,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // No two are called the same, as in the world outside.
        let name = format!("authority {:032x}", rand::random::<u128>());
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Signs one for this machine and for ehr.mercy.example, to serve and to ask with.
    pub(super) fn sign(&self, holds: Holds) -> Signed {
        let names = ["127.0.0.1", "ehr.mercy.example"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if holds == Holds::NoMore {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        Signed {
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A sandbox behind TLS, and the folder of the courier that polls it.
pub(super) struct Behind {
    pub(super) ehr: Arc<Ehr>,
    pub(super) address: SocketAddr,
    pub(super) base_url: Url,
    pub(super) folder: TempDir,
    _stop: DropGuard,
    _tasks: JoinSet<()>,
}

impl Behind {
    /// Serves with a certificate; asks clients for one of an authority, if one is named. `host` is what it is called.
    pub(super) async fn raise(
        server: &Signed,
        clients: Option<&Authority>,
        access: fn(&Url) -> Access,
        host: &str,
    ) -> Self {
        let (outer, inner) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let address = outer.local_addr().unwrap();
        let port = address.port();
        let base_url = Url::parse(&format!("https://{host}:{port}/fhir")).unwrap();
        let acceptor = acceptor(server, clients);
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let behind = inner.local_addr().unwrap();
        tasks.spawn(async move {
            let mut held = JoinSet::new();
            while let Ok((stream, _)) = outer.accept().await {
                let acceptor = acceptor.clone();
                held.spawn(async move {
                    let Ok(mut outside) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut inside = TcpStream::connect(behind).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut outside, &mut inside).await);
                });
            }
        });
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let options = Options {
            auth: access(&base_url),
            ..Options::new(3, base_url.clone())
        };
        let ehr = Arc::new(Ehr::new(options, clock));
        let sandbox = sandbox::serve(inner, Arc::clone(&ehr), Pace::per_second(0.0), stop.clone());
        tasks.spawn(async move { sandbox.await.unwrap() });
        Self {
            ehr,
            address,
            base_url,
            folder: tempfile::tempdir().unwrap(),
            _stop: stop.drop_guard(),
            _tasks: tasks,
        }
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// A configuration whose connection has these further lines.
    pub(super) fn text(&self, lines: &str) -> String {
        format!(
            "[state]\nurl = \"sqlite://courier.db\"\nkey = \"none\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
             [connections.mercy]\nprofile = \"sandbox\"\nbase_url = \"{}\"\nevery = \"1s\"\n\
             allow_networks = [\"127.0.0.0/8\"]\n{lines}\n\
             [[connections.mercy.feeds]]\nrecord = \"Patient\"\nstart = \"beginning\"\n",
            self.base_url
        )
    }
}

pub(super) fn acceptor(server: &Signed, clients: Option<&Authority>) -> TlsAcceptor {
    let builder = ServerConfig::builder();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
            roots.add(root).unwrap();
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build().unwrap())
        }
    };
    let chain = CertificateDer::pem_slice_iter(server.certificate.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).unwrap();
    let config = builder.with_single_cert(chain, key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}
