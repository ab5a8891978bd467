//! Everything that leaves the process or outlives it: notification formats and stored bodies.
//!
//! Knows the domain; is known by stores, destinations and the face. The domain knows nothing of it.

pub mod cloudevents;
pub mod context;
pub mod routing_key;
pub mod sealed;

use bytes::Bytes;

use crate::domain::delivery::{Delivery, RENDERER, RENDERER_FIRST};
use crate::domain::event::Event;
use crate::domain::fan_out::Format;

/// A notification's bytes and what they are. `Debug` shows sizes only: bodies and subjects can be PHI.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The media type of the body; none where there is no body.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Bytes,
    /// Where the event's attributes stand.
    pub mode: Mode,
    /// The event's attributes by their CloudEvents names, in one fixed order; the media type of its data is not one.
    pub attributes: Vec<(&'static str, String)>,
}

/// Where an event's attributes stand: CloudEvents' content mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the body, beside the data. Headers may repeat them.
    Structured,
    /// In headers; the body is the data alone.
    Binary,
}

impl std::fmt::Debug for Rendered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let content_type = self.content_type.unwrap_or("-");
        write!(
            f,
            "Rendered({:?}, {content_type}, {} bytes)",
            self.mode,
            self.body.len()
        )
    }
}

/// Renders a delivery from what was frozen in its row and its event, and from nothing else: the same bytes at
/// every attempt.
#[must_use]
pub fn render(event: &Event, delivery: &Delivery) -> Rendered {
    match delivery.format {
        Format::CloudEvents => cloudevents::structured(event, delivery),
        Format::CloudEventsBinary => cloudevents::binary(event, delivery),
    }
}

/// Whether this binary can render what was frozen by the given renderer.
#[must_use]
pub fn has_renderer(renderer: u32) -> bool {
    (RENDERER_FIRST..=RENDERER).contains(&renderer)
}
