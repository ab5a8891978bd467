//! `sandbox` and `listen`: the two ends of the courier's way, each alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use clap::Args;
use courier_sdk::Clock;
use ipnet::IpNet;
use rand::RngExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use url::Url;

use super::output::{Colour, Output, visible};
use super::{CliError, signals};
use crate::clock::SystemClock;
use crate::config::Environment;
use crate::destination::signature::SigningKey;
use crate::egress::client::{ClientOptions, GuardedClient};
use crate::egress::guard::AddressPolicy;
use crate::receiver::{self, Received};
use crate::sandbox::{self, Access, Dialect, Ehr, Faults, Options, Pace, RefreshClient, SmartClient};

/// What `--fault` takes.
fn fault_help() -> String {
    format!(
        "A fault to switch on; may be repeated. `name` strikes one answer in ten, `name=SHARE` so many.\n\
         While it runs: PUT /faults with content-type application/json, in the shape that GET /faults answers.\n\
         Names: {}",
        sandbox::FAULT_NAMES.join(", ")
    )
}

/// What `--dialect` takes.
fn dialect_help() -> String {
    format!(
        "What kind of server it is; may be repeated: `no_history`, `granularity=day`. See docs/sandbox.md.\n\
         While it runs: PUT /dialect with content-type application/json, in the shape that GET /dialect answers.\n\
         Names: {}",
        sandbox::DIALECT_NAMES.join(", ")
    )
}

/// Notifications that may wait to be printed; above it the receiver answers 503, as a busy consumer would.
const RECEIVED_MAX: usize = 1_024;

#[derive(Debug, Args)]
pub(super) struct SandboxCommand {
    /// The loopback port; 0 picks a free one.
    #[arg(long, default_value_t = 8090)]
    port: u16,
    /// Changes per second.
    #[arg(long, default_value_t = 1.0)]
    pace: f64,
    /// Patients at the start.
    #[arg(long, default_value_t = 50)]
    patients: usize,
    /// The same seed makes the same clinic.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A fault to switch on; may be repeated. A name alone strikes one answer in ten; `name=SHARE` so many. While it
    /// runs: `PUT /faults` with a JSON object, as `GET /faults` shows it.
    #[arg(long = "fault", value_name = "FAULT", long_help = fault_help())]
    faults: Vec<String>,
    /// What kind of server it is; may be repeated. `no_history`, `granularity=day` and others, see docs/sandbox.md.
    #[arg(long = "dialect", value_name = "DIALECT", long_help = dialect_help())]
    dialects: Vec<String>,
    /// Let in only a SMART backend service that has the private half of this public key (PEM, RSA or P-384).
    #[arg(long, value_name = "FILE")]
    smart_client_key: Option<std::path::PathBuf>,
    /// The same, but by the address at which it publishes its keys: the courier's own `/.well-known/jwks.json`.
    #[arg(long, value_name = "URL", conflicts_with = "smart_client_key")]
    smart_client_keys_url: Option<url::Url>,
    /// That service's client id.
    #[arg(long, value_name = "ID", default_value = "courier")]
    smart_client_id: String,
    /// Let in only a public client `courier` that was authorized with this refresh token, which each use replaces.
    #[arg(
        long,
        value_name = "TOKEN",
        conflicts_with_all = ["smart_client_key", "smart_client_keys_url"]
    )]
    refresh_token: Option<String>,
}

/// What SMART recommends.
const TOKEN_LIFETIME: std::time::Duration = std::time::Duration::from_mins(5);

#[derive(Debug, Args)]
pub(super) struct ListenCommand {
    /// The loopback port; 0 picks a free one.
    #[arg(long, default_value_t = 8099)]
    port: u16,
    /// The signing secret: `whsec_…`, `env:NAME` or `file:PATH`. One is made and printed if not given.
    #[arg(long)]
    secret: Option<String>,
    /// Also print each notification's body, which may be patient data.
    #[arg(long)]
    body: bool,
}

/// Runs the sandbox EHR until SIGTERM or SIGINT.
pub(super) async fn sandbox(command: SandboxCommand, output: &mut Output) -> Result<(), CliError> {
    let mut faults = Faults::default();
    for text in &command.faults {
        let switched = sandbox::parse_fault(text).and_then(|switch| faults.with(&switch));
        faults = switched.map_err(|error| CliError::Usage(format!("--fault {text}: {error}")))?;
    }
    let mut dialect = Dialect::default();
    for text in &command.dialects {
        let chosen = dialect.with(text);
        dialect = chosen.map_err(|error| CliError::Usage(format!("--dialect {text}: {error}")))?;
    }
    let listener = bind(command.port).await?;
    let base_url = base_url(listener.local_addr()?, "/fhir")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options = Options {
        patients: command.patients,
        auth: access(&command)?,
        dialect,
        ..Options::new(command.seed, base_url.clone())
    };
    let ehr = Arc::new(Ehr::new(options, clock));
    ehr.set_faults(faults);
    output.banner(&format!(
        "sandbox EHR at {base_url} (metadata, search, read, history, batch; /ledger, /kept, /dialect, /faults, /strikes, /pace beside it)"
    ));
    let pace = Pace::per_second(command.pace);
    Ok(sandbox::serve(listener, ehr, pace, signals::until_terminated()?).await?)
}

fn access(command: &SandboxCommand) -> Result<Access, CliError> {
    let id = command.smart_client_id.as_str();
    if let Some(first) = &command.refresh_token {
        return Ok(Access::Refresh(RefreshClient {
            id: "courier".to_owned(),
            secret: None,
            first: first.clone(),
            rotates: true,
            token_lifetime: TOKEN_LIFETIME,
        }));
    }
    if let Some(url) = &command.smart_client_keys_url {
        // The courier that is tried out listens on this machine.
        let policy = AddressPolicy {
            allow_networks: vec![IpNet::from(IpAddr::from(Ipv4Addr::LOCALHOST))],
            plain_http_networks: Vec::new(),
        };
        let http = Arc::new(GuardedClient::new(policy, &ClientOptions::default()));
        let client = SmartClient::by_key_set(id, url.clone(), http, TOKEN_LIFETIME);
        return Ok(Access::Smart(client));
    }
    let Some(path) = &command.smart_client_key else {
        return Ok(Access::Open);
    };
    let refused =
        |reason: String| CliError::Usage(format!("--smart-client-key {}: {reason}", path.display()));
    let pem = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let client = SmartClient::new(id, &pem, TOKEN_LIFETIME);
    Ok(Access::Smart(client.map_err(|error| refused(error.to_string()))?))
}

/// Receives, verifies and prints notifications until SIGTERM or SIGINT.
pub(super) async fn listen(
    command: ListenCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    let (key, made) = signing_key(command.secret.as_deref(), environment)?;
    let listener = bind(command.port).await?;
    output.banner(&format!(
        "listening at {}",
        base_url(listener.local_addr()?, "/")?
    ));
    if let Some(text) = made {
        output.banner(&format!(
            "secret (put it where the courier's configuration reads it): {text}"
        ));
    }
    let (sink, mut received) = mpsc::channel(RECEIVED_MAX);
    let stop = signals::until_terminated()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let serve = receiver::serve(listener, vec![key], clock, sink, stop);
    tokio::pin!(serve);
    loop {
        tokio::select! {
            biased;
            Some(notification) = received.recv() => print(&notification, command.body, output),
            served = &mut serve => return served.map_err(|error| CliError::Failed(error.to_string())),
        }
    }
}

fn print(notification: &Received, body: bool, output: &mut Output) {
    let text = body.then(|| String::from_utf8_lossy(&notification.body));
    if output.is_json() {
        let mut value = serde_json::json!({
            "id": notification.event_id.as_str(), "replay": notification.replay, "received_at": notification.received_at.to_string(),
        });
        if let (Some(text), Some(members)) = (text, value.as_object_mut()) {
            members.insert("body".to_owned(), text.into());
        }
        output.value(&value);
        return;
    }
    let id = output.coloured(notification.event_id.as_str(), Colour::Dim);
    output.line(&format!("{}  {id}", summary(notification)));
    if let Some(text) = text {
        output.line(&text);
    }
}

/// What an event says, in one line: change, record, version, number. Its attributes are in headers or in the body.
pub(super) fn summary(notification: &Received) -> String {
    let event: serde_json::Value = if notification.attributes.is_empty() {
        serde_json::from_slice(&notification.body).unwrap_or_default()
    } else {
        serde_json::json!(notification.attributes)
    };
    let text = |name: &str| {
        event
            .get(name)
            .and_then(serde_json::Value::as_str)
            .map_or_else(|| "-".to_owned(), visible)
    };
    let change = text("type").rsplit('.').next().unwrap_or("-").to_owned();
    let number: u64 = text("sequence").parse().unwrap_or(0);
    format!(
        "#{number:<5} {change:<8} {:<40} version {}",
        text("subject"),
        text("recordversion")
    )
}

/// Reads the secret, or makes one; a made one is given back as text too.
fn signing_key(
    secret: Option<&str>,
    environment: &Environment,
) -> Result<(SigningKey, Option<String>), CliError> {
    let refused = |reason: String| CliError::Usage(format!("--secret: {reason}"));
    let Some(given) = secret else {
        let text = random_secret();
        let key = SigningKey::parse(&text).map_err(|error| refused(error.to_string()))?;
        return Ok((key, Some(text)));
    };
    let text = if let Some(name) = given.strip_prefix("env:") {
        environment
            .get(name)
            .ok_or_else(|| refused(format!("the environment has no {name}")))?
            .to_owned()
    } else if let Some(path) = given.strip_prefix("file:") {
        std::fs::read_to_string(path)
            .map_err(|error| refused(error.to_string()))?
            .trim_end()
            .to_owned()
    } else {
        given.to_owned()
    };
    let key = SigningKey::parse(&text).map_err(|error| refused(error.to_string()))?;
    Ok((key, None))
}

/// A fresh secret in the form that Standard Webhooks gives it.
pub(super) fn random_secret() -> String {
    use base64::Engine as _;
    let bytes: [u8; 32] = rand::rng().random();
    format!(
        "whsec_{}",
        base64::engine::general_purpose::STANDARD.encode(bytes)
    )
}

/// Binds a loopback port.
pub(super) async fn bind(port: u16) -> Result<TcpListener, CliError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address)
        .await
        .map_err(|error| CliError::Failed(format!("cannot listen on {address}: {error}")))
}

/// The address of what listens there.
pub(super) fn base_url(address: SocketAddr, path: &str) -> Result<Url, CliError> {
    Url::parse(&format!("http://{address}{path}")).map_err(|error| CliError::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::identity::EventId;

    #[test]
    fn a_notification_is_summed_up_alike_whether_its_attributes_are_in_headers_or_in_the_body() {
        let attributes = [
            ("type", "org.ehr-courier.record.updated"),
            ("subject", "Appointment/1"),
            ("recordversion", "2"),
            ("sequence", "00000000000000000007"),
        ];
        let received = |attributes: BTreeMap<String, String>, body: String| Received {
            event_id: EventId::parse("ev_7p4veun2fjt2pr4xydjxfcaai3jl2l2w").unwrap(),
            timestamp: jiff::Timestamp::UNIX_EPOCH,
            verified: true,
            replay: false,
            attributes,
            body: body.into(),
            received_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let attributes: BTreeMap<String, String> = attributes
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let in_body = received(BTreeMap::new(), serde_json::to_string(&attributes).unwrap());
        let in_headers = received(attributes, r#"{"resourceType":"Appointment"}"#.to_owned());
        let line = summary(&in_headers);
        assert_eq!(line, summary(&in_body));
        for part in ["#7 ", "updated", "Appointment/1", "version 2"] {
            assert!(line.contains(part), "{line}");
        }
    }
}
