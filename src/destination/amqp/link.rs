//! One connection to the broker, with the channels that are free.
//!
//! A message has a channel to itself until it is confirmed. lapin hands a returned message to whichever confirm comes next
//! on its channel, and where the broker confirms several at once, to any of them: with more than one message under way a
//! returned one could pass for delivered. So the window is as many channels, not one channel with as many messages.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_compat::Compat;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::message::{Message, judge};
use super::refused::{Refused, Shortage};
use super::{CLOSE_DEADLINE, Settings};
use crate::egress::dial::{Broker, dial};
use crate::egress::guard::Transport;

/// How long address, TCP, TLS and login may take together: less than an attempt has.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How often each side shows that it lives, in seconds; a silent broker is given up after twice as long.
const HEARTBEAT_SECONDS: u16 = 10;

/// The name that the broker's operators see.
const CONNECTION_NAME: &str = "ehr-courier";

/// How long an exchange that cannot be used is not asked for again: at first, and at most.
const HOLD_FIRST: Duration = Duration::from_secs(1);
const HOLD_MOST: Duration = Duration::from_secs(30);

/// The code and words of a goodbye (AMQP 0-9-1: reply-success).
const GOODBYE: (u16, &str) = (200, "goodbye");

type Stream = AsyncTcpStream<Compat<tokio::net::TcpStream>>;

/// A connection that has logged in.
pub(super) struct Link {
    connection: Connection,
    free: Mutex<Vec<Channel>>,
    hold: Mutex<Option<Hold>>,
    blocked: watch::Sender<Option<Shortage>>,
    lost: CancellationToken,
    // Last, so that a goodbye on its way is not cut.
    _cut: Cut,
}

/// Why no channel is opened for a while.
struct Hold {
    refused: Refused,
    wait: Duration,
    until: Instant,
}

/// Cuts the socket when dropped: a peer that never answers would keep lapin's thread for ever.
struct Cut(std::net::TcpStream);

impl Drop for Cut {
    fn drop(&mut self) {
        // An error says that it is closed already.
        drop(self.0.shutdown(std::net::Shutdown::Both));
    }
}

impl Link {
    /// Dials the broker and logs in, within [`CONNECT_DEADLINE`].
    pub(super) async fn open(settings: &Settings) -> Result<Self, Refused> {
        let ends = Instant::now() + CONNECT_DEADLINE;
        let broker = &settings.broker;
        let stream = dial(&settings.policy, &broker.endpoint, CONNECT_DEADLINE)
            .await
            .map_err(|error| Refused::dialling(&error))?;
        let (stream, cut) = with_cut(stream).map_err(|_io| Refused::Broken)?;
        let login = async {
            let stream = secured(stream, broker).await?;
            log_in(stream, broker).await
        };
        let connection = timeout_at(ends, login)
            .await
            .unwrap_or(Err(Refused::NoLoginWithin(CONNECT_DEADLINE)))?;
        Ok(Self {
            connection,
            free: Mutex::default(),
            hold: Mutex::default(),
            blocked: watch::Sender::new(None),
            lost: CancellationToken::new(),
            _cut: cut,
        })
    }

    /// The connection, for whoever watches it.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What the broker lacks, while it takes no messages.
    pub(super) fn blocked(&self) -> Option<Shortage> {
        *self.blocked.borrow()
    }

    /// Notes that the broker takes no messages, or takes them again.
    pub(super) fn block(&self, shortage: Option<Shortage>) {
        self.blocked.send_replace(shortage);
    }

    /// Notes that the connection is gone: whatever waits on it fails.
    pub(super) fn lose(&self) {
        self.lost.cancel();
    }

    /// Waits until the broker takes messages.
    pub(super) async fn unblocked(&self) -> Result<(), Refused> {
        let mut blocked = self.blocked.subscribe();
        let waited = self
            .lost
            .run_until_cancelled(blocked.wait_for(Option::is_none))
            .await;
        match waited {
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => Err(Refused::Lost),
        }
    }

    /// Publishes a message and waits for its confirm. The caller bounds the wait.
    ///
    /// Dropping the future gives its channel up: the next message does not meet a stranger's confirm.
    pub(super) async fn publish(&self, settings: &Settings, message: &Message) -> Result<(), Refused> {
        let exchange = settings.exchange.as_str();
        let exchange_name = ShortString::try_new(exchange).map_err(|_too_long| Refused::Names)?;
        let sending = async {
            let channel = self.channel(&exchange_name).await?;
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let published = channel.basic_publish(
                exchange_name,
                message.routing_key.clone(),
                options,
                &message.body,
                message.properties.clone(),
            );
            let failed = |error: lapin::Error| Refused::channel(&error, exchange);
            let begun = Instant::now();
            let confirmation = published.await.map_err(failed)?.await.map_err(failed)?;
            metrics::histogram!("courier_amqp_confirm_seconds", "destination" => settings.label.clone())
                .record(begun.elapsed().as_secs_f64());
            self.free().push(channel);
            judge(&confirmation, exchange)
        };
        self.lost
            .run_until_cancelled(sending)
            .await
            .unwrap_or(Err(Refused::Lost))
    }

    /// Takes a free channel, or opens one that confirms, unless the last one could not be opened just now.
    async fn channel(&self, exchange: &ShortString) -> Result<Channel, Refused> {
        loop {
            let Some(channel) = self.free().pop() else { break };
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        if let Some(hold) = self.hold().as_ref()
            && Instant::now() < hold.until
        {
            return Err(hold.refused.clone());
        }
        let opened = self.open_channel(exchange).await;
        let mut held = self.hold();
        match &opened {
            Ok(_) => *held = None,
            Err(refused) => {
                let wait = held.as_ref().map_or(HOLD_FIRST, |hold| {
                    // Those that were under way together count once.
                    let again = if Instant::now() < hold.until { 1 } else { 2 };
                    (hold.wait * again).min(HOLD_MOST)
                });
                *held = Some(Hold {
                    refused: refused.clone(),
                    wait,
                    until: Instant::now() + wait,
                });
            }
        }
        drop(held);
        opened
    }

    /// Opens a channel that confirms, and asks for the exchange: a missing one is found out before anything is published.
    async fn open_channel(&self, exchange: &ShortString) -> Result<Channel, Refused> {
        let failed = |error: lapin::Error| Refused::channel(&error, exchange.as_str());
        let channel = self.connection.create_channel().await.map_err(failed)?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(failed)?;
        let passive = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        // A passive declaration only looks at the name.
        let kind = ExchangeKind::Topic;
        channel
            .exchange_declare(exchange.clone(), kind, passive, FieldTable::default())
            .await
            .map_err(failed)?;
        Ok(channel)
    }

    /// Says goodbye, within [`CLOSE_DEADLINE`].
    pub(super) async fn close(&self) {
        let (code, words) = GOODBYE;
        let goodbye = self.connection.close(code, words.into());
        // Whether the broker heard it or not, the socket is cut next.
        drop(timeout(CLOSE_DEADLINE, goodbye).await);
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Channel>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self) -> std::sync::MutexGuard<'_, Option<Hold>> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a second handle of the socket, by which it can be cut whoever owns the first.
fn with_cut(stream: tokio::net::TcpStream) -> std::io::Result<(tokio::net::TcpStream, Cut)> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let cut = Cut(stream.try_clone()?);
    Ok((tokio::net::TcpStream::from_std(stream)?, cut))
}

/// Puts TLS on the stream where the broker is spoken to so, with the machine's root certificates.
async fn secured(stream: tokio::net::TcpStream, broker: &Broker) -> Result<Stream, Refused> {
    let stream = AsyncTcpStream::Plain(Compat::new(stream));
    match broker.endpoint.transport {
        Transport::Plain => Ok(stream),
        Transport::Tls => stream
            .into_tls(&broker.endpoint.host, OwnedTLSConfig::default().as_ref())
            .await
            .map_err(|_io| Refused::Tls),
    }
}

/// Logs in over a stream that is connected: lapin neither resolves, dials, retries nor recovers anything.
async fn log_in(stream: Stream, broker: &Broker) -> Result<Connection, Refused> {
    let failed = |_error: lapin::Error| Refused::Broken;
    let runtime = lapin::runtime::default_runtime().map_err(failed)?;
    let properties = ConnectionProperties::default().with_connection_name(CONNECTION_NAME.into());
    let once = Mutex::new(Some(stream));
    let connected = async move |_uri, _runtime| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected).into())
    };
    Connection::connector(uri(broker), runtime, connected, properties)
        .await
        .map_err(|error| Refused::login(&error))
}

fn uri(broker: &Broker) -> AMQPUri {
    AMQPUri {
        scheme: match broker.endpoint.transport {
            Transport::Plain => AMQPScheme::AMQP,
            Transport::Tls => AMQPScheme::AMQPS,
        },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: broker.user.clone(),
                password: broker.password.expose_secret().to_owned(),
            },
            host: broker.endpoint.host.clone(),
            port: broker.endpoint.port,
        },
        vhost: broker.virtual_host.clone(),
        query: AMQPQueryString {
            heartbeat: Some(HEARTBEAT_SECONDS),
            ..AMQPQueryString::default()
        },
    }
}
