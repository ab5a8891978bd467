//! Canaries: what must never leave by any way but the notification itself, and the search for it in every spelling.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::tidy::root;

/// A synthetic patient's name.
pub(crate) const NAME: &str = "Quilla Canaryfeather";
/// A synthetic medical record number.
pub(crate) const MRN: &str = "MRN-5550199-CANARY";
/// A source's bearer token.
pub(crate) const TOKEN: &str = "canary-token-9f3b7c1d2e";
/// The bytes of a webhook's signing key.
pub(crate) const SIGNING_KEY: &str = "canary-webhook-signing-key-00001";

/// A broker's password.
pub(crate) const AMQP_PASSWORD: &str = "canary-amqp-password-51c0d8a2";
/// A Redis's password.
pub(crate) const REDIS_PASSWORD: &str = "canary-redis-password-7e2ab46f";
/// The secret of an OAuth 2.0 client.
pub(crate) const CLIENT_SECRET: &str = "canary-client-secret-b86f03e5";
/// What a token endpoint grants.
pub(crate) const ACCESS_TOKEN: &str = "canary-access-token-c4d917b3";

/// All of them.
pub(crate) const CANARIES: [&str; 8] = [
    NAME,
    MRN,
    TOKEN,
    SIGNING_KEY,
    AMQP_PASSWORD,
    REDIS_PASSWORD,
    CLIENT_SECRET,
    ACCESS_TOKEN,
];

/// The signing key as the configuration reads it.
pub(crate) fn signing_secret() -> String {
    format!("whsec_{}", STANDARD.encode(SIGNING_KEY))
}

/// How a text can be spelt: plain, percent-encoded, hexadecimal, or base64 at each of its three alignments, where only
/// the letters count that do not depend on what stands beside it.
fn spellings(text: &str) -> BTreeSet<String> {
    let hexadecimal = data_encoding::HEXLOWER.encode(text.as_bytes());
    let percent = text
        .bytes()
        .fold(String::new(), |all, byte| all + &format!("%{byte:02x}"));
    let mut all = BTreeSet::from([
        text.to_owned(),
        text.replace(' ', "%20"),
        text.replace(' ', "+"),
        hexadecimal,
        percent,
    ]);
    for before in 0..3 {
        let bytes = [vec![0; before], text.as_bytes().to_vec()].concat();
        let (first, last) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        for alphabet in [STANDARD, URL_SAFE] {
            let encoded = alphabet.encode(&bytes);
            all.insert(encoded[first..last].to_owned());
        }
    }
    all
}

/// The spellings of all canaries.
fn all_spellings() -> BTreeSet<String> {
    CANARIES.into_iter().flat_map(spellings).collect()
}

/// The spellings of canaries that a text holds, in whatever case.
pub(crate) fn found_in(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text).to_lowercase();
    let mut found: Vec<String> = all_spellings().into_iter().collect();
    found.retain(|spelling| text.contains(&spelling.to_lowercase()));
    found
}

#[test]
fn the_search_finds_a_planted_leak_in_every_spelling() {
    for canary in CANARIES {
        for spelling in spellings(canary) {
            let planted = format!("{{\"message\":\"poll failed\",\"error\":\"…{spelling}…\"}}");
            assert!(found_in(planted.as_bytes()).contains(&spelling), "{spelling}");
        }
        // As it would stand in the middle of something encoded as a whole.
        for around in ["", "x", "xy", "xyz"] {
            let whole = STANDARD.encode(format!("{around}{canary}{around}"));
            assert!(
                !found_in(whole.as_bytes()).is_empty(),
                "{canary} after {around:?}"
            );
        }
    }
    let harmless = b"connection=mercy feed=appointments event_id=ev_abcdefghijklmnopqrstuvwxyz234567";
    assert!(found_in(harmless).is_empty());
}

/// `tests/run` searches all that the suite prints for these.
#[test]
fn the_list_that_the_whole_suite_is_searched_for_is_complete() {
    let list: Vec<String> = all_spellings().into_iter().collect();
    let wanted = format!("{}\n", list.join("\n"));
    let file = root().join("tests/canaries.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == wanted,
        "tests/canaries.txt is out of date: UPDATE_GOLDEN=1 writes it"
    );
}
