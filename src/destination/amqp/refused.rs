//! Why a message was not accepted, in words that name neither credentials nor anything that the broker wrote.

use std::time::Duration;

use lapin::ErrorKind;
use thiserror::Error;

use crate::egress::dial::DialError;
use crate::wire::routing_key::TooLong;

/// AMQP reply codes (specification 0-9-1, section 1.3; RabbitMQ uses them so).
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// Why an attempt failed, or why there is no connection.
#[derive(Debug, Clone, Error)]
pub(super) enum Refused {
    /// No queue took the message: the broker returned it.
    #[error("unroutable: no queue is bound to exchange {exchange} for its routing key")]
    Unroutable {
        /// Where it was published.
        exchange: String,
    },
    /// A queue would not keep the message.
    #[error("the broker does not keep it (nack): a queue is full or failing")]
    Nack,
    /// The exchange does not exist.
    #[error("no such exchange {exchange}")]
    NoExchange {
        /// The one that was asked for.
        exchange: String,
    },
    /// The user may not publish to the exchange with this routing key.
    #[error("the broker's permissions do not allow to publish to exchange {exchange}")]
    NotPermitted {
        /// Where to.
        exchange: String,
    },
    /// The broker confirms nothing.
    #[error("the broker does not confirm messages")]
    Unconfirming,
    /// The broker stopped taking messages.
    #[error("the broker is blocked: {0}")]
    Blocked(Shortage),
    /// The connection ended before the confirm.
    #[error("the connection was lost before the broker confirmed")]
    Lost,
    /// The broker let the message wait.
    #[error("not confirmed within {} s", .0.as_secs())]
    NotConfirmedWithin(Duration),
    /// There was no connection yet.
    #[error("not connected within {} s", .0.as_secs())]
    NotConnectedWithin(Duration),
    /// The broker did not finish the login.
    #[error("not connected: no login within {} s", .0.as_secs())]
    NoLoginWithin(Duration),
    /// Nobody listens, or nobody who may be reached.
    #[error("not connected: {0}")]
    Dial(String),
    /// TLS failed.
    #[error("not connected: the TLS handshake failed")]
    Tls,
    /// User or password are wrong.
    #[error("not connected: the broker refuses this user or password")]
    Credentials,
    /// The virtual host does not exist or is not this user's.
    #[error("not connected: the broker refuses this virtual host")]
    VirtualHost,
    /// The broker said something else, by its number.
    #[error("the broker answers with AMQP error {0}")]
    Answer(u16),
    /// A channel or connection ended without a word.
    #[error("the connection to the broker broke")]
    Broken,
    /// The routing key is too long.
    #[error(transparent)]
    RoutingKey(#[from] TooLong),
    /// A name does not fit AMQP.
    #[error("the exchange or routing key is longer than 255 bytes")]
    Names,
    /// The courier is stopping.
    #[error("not sent: the courier is stopping")]
    Stopped,
}

/// What the broker lacks while it blocks its publishers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Shortage {
    /// Memory.
    #[error("it is low on memory")]
    Memory,
    /// Disk.
    #[error("it is low on disk")]
    Disk,
    /// Something else.
    #[error("it is short of resources")]
    Other,
}

impl Shortage {
    /// Reads the broker's reason.
    pub(super) fn of(reason: &str) -> Self {
        if reason.contains("memory") {
            Self::Memory
        } else if reason.contains("disk") {
            Self::Disk
        } else {
            Self::Other
        }
    }
}

impl Refused {
    /// What dialling failed with.
    pub(super) fn dialling(error: &DialError) -> Self {
        Self::Dial(error.to_string())
    }

    /// What the login failed with.
    pub(super) fn login(error: &lapin::Error) -> Self {
        match reply_code(error) {
            Some(ACCESS_REFUSED) => Self::Credentials,
            Some(NOT_ALLOWED | NOT_FOUND) => Self::VirtualHost,
            Some(code) => Self::Answer(code),
            None => Self::Dial("the broker ended the connection during the login".to_owned()),
        }
    }

    /// What a channel failed with.
    pub(super) fn channel(error: &lapin::Error, exchange: &str) -> Self {
        let exchange = || exchange.to_owned();
        match reply_code(error) {
            Some(NOT_FOUND) => Self::NoExchange { exchange: exchange() },
            Some(ACCESS_REFUSED) => Self::NotPermitted { exchange: exchange() },
            Some(code @ PRECONDITION_FAILED) => Self::Answer(code),
            Some(code) if code < 500 => Self::Answer(code),
            // A hard error ends the connection; 320 is a broker that shuts down.
            Some(_) => Self::Lost,
            None => Self::Broken,
        }
    }
}

fn reply_code(error: &lapin::Error) -> Option<u16> {
    if let ErrorKind::ProtocolError(answer) = error.kind() {
        Some(answer.get_id())
    } else {
        None
    }
}
