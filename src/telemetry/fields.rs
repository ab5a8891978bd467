//! What a log line may carry: the names of all fields and their meaning, in one place.
//!
//! `docs/logs.md` is this table for people; a test reads the source and refuses any other name. No field is a body, a
//! token, a query string or a secret; record ids are none either.

/// The names of fields, in alphabetical order, with their meaning.
pub const FIELDS: [(&str, &str); 40] = [
    ("accepted_ids", "how many accepted ids were deleted"),
    ("apart_seconds", "how far two clocks differ"),
    ("attempt", "which attempt at a delivery, from 1"),
    ("attempts", "how many attempts"),
    ("cancelled", "how many deliveries were cancelled"),
    ("cause", "why the engine of the store failed"),
    ("changes", "how many changes"),
    (
        "choice",
        "a choice of the configuration that weakens protection or may be a mistake",
    ),
    ("class", "the kind of failure, one fixed word"),
    ("connection", "the connection's name"),
    ("connections", "how many connections"),
    ("deliveries", "how many deliveries"),
    ("destination", "the destination's name"),
    (
        "detail",
        "what came of an attempt: a status, or what kept it from one",
    ),
    ("due_at", "when the next attempt falls due"),
    ("error", "what failed, in words; no body, no address with a query"),
    ("event", "an event's position in its connection's log"),
    ("event_id", "the event's id, derived from its version: ev_…"),
    ("events", "how many events"),
    ("failures", "failed turns in a row"),
    ("feed", "the feed's name"),
    ("fence", "the number of the lease"),
    ("from", "where a cursor stood"),
    ("inbox", "changes that wait for their record"),
    ("late", "events among them that came after a newer version"),
    ("listen", "the address of the listener"),
    ("log", "events that wait for fan-out"),
    ("moved", "how many deliveries got another destination"),
    ("narrowed", "how many deliveries lost content"),
    ("operation", "what was asked of a service"),
    ("problems", "how many problems a configuration has"),
    ("reason", "why, in words"),
    ("records", "how many records"),
    ("seconds", "a duration"),
    ("spans", "how many spans"),
    ("status", "the status of an answer"),
    ("subscription", "the subscription's name"),
    ("subscriptions", "how many subscriptions"),
    ("to", "where a cursor stands, or deliveries go, from now on"),
    ("what", "what moved meanwhile"),
];
