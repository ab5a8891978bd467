//! The section `[telemetry]`: how logs are written and where traces go.

use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::problem::Origin;
use super::raw::{Number, Text};
use super::resolve::Context;
use super::value::{self, Refusal, refusal};
use super::{LogFormat, Telemetry, Traces};

/// The standard variable that names a collector for every program on a machine.
const STANDARD_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// How the courier is watched.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTelemetry {
    /// How log lines are written. Default: auto, text on a terminal and JSON lines elsewhere.
    #[schemars(with = "Option<String>", extend("enum" = ["auto", "text", "json"]))]
    log: Option<Text>,
    /// The base address of an OTLP/HTTP collector of traces, for example `http://127.0.0.1:4318`. Default: the variable
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, else nothing is traced.
    #[schemars(with = "Option<String>")]
    otlp_endpoint: Option<Text>,
    /// How many of a hundred polls that show something new are traced: 1 to 100. Default: 100.
    #[schemars(with = "Option<i64>", range(min = 1, max = 100))]
    trace_percent: Option<Number>,
}

pub(super) fn resolve(raw: &RawTelemetry, context: &mut Context<'_>) -> Option<Telemetry> {
    let formats = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
    ];
    let log = match &raw.log {
        Some(text) => context.word(text, "telemetry.log", &formats, &[]),
        None => Some(LogFormat::Auto),
    };
    let standard = context.surroundings.environment.get(STANDARD_ENDPOINT);
    let collector = match (&raw.otlp_endpoint, standard) {
        (Some(text), _) => {
            let address = collector(text.get_ref());
            context.accept(address, text, "telemetry.otlp_endpoint").map(Some)
        }
        (None, Some(text)) if !text.is_empty() => {
            let origin = Origin::Variable(STANDARD_ENDPOINT.to_owned());
            context
                .accept(collector(text), origin, "telemetry.otlp_endpoint")
                .map(Some)
        }
        (None, _) => Some(None),
    };
    let percent = match &raw.trace_percent {
        Some(number) => {
            let percent = u8::try_from(*number.get_ref())
                .ok()
                .filter(|n| (1..=100).contains(n));
            let percent = percent.ok_or_else(|| {
                refusal(
                    "not between 1 and 100",
                    "write trace_percent = 100, or leave out `otlp_endpoint` to trace nothing",
                )
            });
            context.accept(percent, number, "telemetry.trace_percent")
        }
        None => Some(100),
    };
    let (collector, percent) = (collector?, percent?);
    Some(Telemetry {
        log: log?,
        traces: collector.map(|collector| Traces { collector, percent }),
    })
}

/// A collector's base address. It may be plain http and lie anywhere: it is the operator's own, and is sent no record.
fn collector(text: &str) -> Result<Url, Refusal> {
    let example = "write the base address of an OTLP/HTTP collector, such as \"http://127.0.0.1:4318\"";
    let url = value::web_address(text).map_err(|refused| refusal(refused.message, example))?;
    if url.query().is_some() {
        return Err(refusal("an address with a query", example));
    }
    Ok(url)
}
