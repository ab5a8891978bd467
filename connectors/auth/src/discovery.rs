//! Where a SMART server grants tokens: its `.well-known/smart-configuration`. Pure.
//!
//! **Source**: SMART App Launch 2.2, "Conformance" (`conformance.md` at 2494e06), seen 2026-11-20. Servers for
//! backend clients alone leave required members out, so only what is used here is asked for.

use serde::Deserialize;
use url::Url;

/// The address below a source's base at which it describes itself.
pub(crate) fn address(base: &Url) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments
            .pop_if_empty()
            .extend([".well-known", "smart-configuration"]);
    }
    url
}

#[derive(Deserialize)]
struct Configuration {
    token_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_signing_alg_values_supported: Vec<String>,
}

/// Reads where tokens are granted to a client that signs with this algorithm, if any; the error says what is wrong, without the document's text.
pub(crate) fn token_url(base: &Url, body: &[u8], algorithm: Option<&str>) -> Result<Url, String> {
    let help = "write `token_url` in the connection's auth";
    let Ok(found) = serde_json::from_slice::<Configuration>(body) else {
        return Err(format!("the source's smart-configuration cannot be read: {help}"));
    };
    let accepted = &found.token_endpoint_auth_signing_alg_values_supported;
    if let Some(algorithm) = algorithm
        && !accepted.is_empty()
        && !accepted.iter().any(|name| name == algorithm)
    {
        return Err(format!(
            "the source does not accept {algorithm} signatures: register a key of the other kind (RSA signs RS384, \
             P-384 signs ES384)"
        ));
    }
    // Addresses are absolute; some servers of the first SMART releases wrote them relative to their base.
    let url = found
        .token_endpoint
        .and_then(|text| address(base).join("../").ok()?.join(&text).ok());
    match url {
        Some(url) if matches!(url.scheme(), "https" | "http") => Ok(url),
        Some(_) | None => Err(format!(
            "the source's smart-configuration names no token endpoint: {help}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_endpoint_is_found_or_the_reason_is_said() {
        let base = Url::parse("https://ehr.example/fhir/R4").unwrap();
        let algorithms = r#""token_endpoint_auth_signing_alg_values_supported":"#;
        for (body, expected) in [
            (
                r#"{"token_endpoint":"https://auth.example/token"}"#.to_owned(),
                Some("https://auth.example/token"),
            ),
            (
                r#"{"token_endpoint":"auth/token"}"#.to_owned(),
                Some("https://ehr.example/fhir/R4/auth/token"),
            ),
            (
                r#"{"token_endpoint":"/token"}"#.to_owned(),
                Some("https://ehr.example/token"),
            ),
            (
                format!(r#"{{"token_endpoint":"https://a.example/t",{algorithms}["ES384","RS384"]}}"#),
                Some("https://a.example/t"),
            ),
            (
                format!(r#"{{"token_endpoint":"https://a.example/t",{algorithms}["ES384"]}}"#),
                None,
            ),
            (r#"{"token_endpoint":"ftp://a.example/t"}"#.to_owned(), None),
            ("{}".to_owned(), None),
            ("<html>".to_owned(), None),
        ] {
            let found = token_url(&base, body.as_bytes(), Some("RS384")).ok();
            assert_eq!(found.as_ref().map(Url::as_str), expected, "{body}");
        }
        let slash = Url::parse("https://ehr.example/fhir/").unwrap();
        let expected = "https://ehr.example/fhir/.well-known/smart-configuration";
        assert_eq!(address(&slash).as_str(), expected);
    }
}
