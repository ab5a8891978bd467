//! The section `[telemetry]`: how logs are written and where traces go.

use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::environment::Overrides;
use super::problem::Origin;
use super::raw::{Number, Text};
use super::resolve::{Context, scalar};
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

pub(super) fn resolve(
    raw: &RawTelemetry,
    overrides: &Overrides,
    context: &mut Context<'_>,
) -> Option<Telemetry> {
    let formats = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
    ];
    let log = match scalar("telemetry.log", raw.log.as_ref(), overrides) {
        Some(written) => context.word_from(written, "telemetry.log", &formats, &[]),
        None => Some(LogFormat::Auto),
    };
    let standard = context.surroundings.environment.get(STANDARD_ENDPOINT);
    let standard = standard
        .filter(|text| !text.is_empty())
        .map(|text| (text, Origin::Variable(STANDARD_ENDPOINT.to_owned())));
    let key = "telemetry.otlp_endpoint";
    let collector = match scalar(key, raw.otlp_endpoint.as_ref(), overrides).or(standard) {
        Some((text, origin)) => context.accept(collector(text), origin, key).map(Some),
        None => Some(None),
    };
    let key = "telemetry.trace_percent";
    let percent = match (overrides.get(key), &raw.trace_percent) {
        (Some((text, origin)), _) => context.accept(percent(text.parse().ok()), origin, key),
        (None, Some(number)) => context.accept(percent(Some(*number.get_ref())), number, key),
        (None, None) => Some(100),
    };
    let (collector, percent) = (collector?, percent?);
    Some(Telemetry {
        log: log?,
        traces: collector.map(|collector| Traces { collector, percent }),
    })
}

fn percent(number: Option<i64>) -> Result<u8, Refusal> {
    let percent = number.and_then(|number| u8::try_from(number).ok());
    percent.filter(|n| (1..=100).contains(n)).ok_or_else(|| {
        refusal(
            "not between 1 and 100",
            "write trace_percent = 100, or leave out `otlp_endpoint` to trace nothing",
        )
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
