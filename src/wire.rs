//! Everything that leaves the process or outlives it: notification formats and stored bodies.
//!
//! Knows the domain; is known by stores, destinations and the face. The domain knows nothing of it.

pub mod cloudevents;
pub mod context;
pub mod sealed;

use bytes::Bytes;

use crate::domain::delivery::{Delivery, RENDERER};
use crate::domain::event::Event;
use crate::domain::fan_out::Format;

/// A notification's bytes and what they are. `Debug` shows sizes only: bodies can be PHI.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The media type.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl std::fmt::Debug for Rendered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rendered({}, {} bytes)", self.content_type, self.body.len())
    }
}

/// Renders a delivery from what was frozen in its row and its event, and from nothing else: the same bytes at
/// every attempt.
#[must_use]
pub fn render(event: &Event, delivery: &Delivery) -> Rendered {
    match delivery.format {
        Format::CloudEvents => cloudevents::render(event, delivery),
    }
}

/// Whether this binary can render what was frozen by the given renderer.
#[must_use]
pub fn has_renderer(renderer: u32) -> bool {
    renderer == RENDERER
}
