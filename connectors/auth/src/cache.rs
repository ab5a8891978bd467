//! What is known of a client's token: in force, running out, or refused for now. Pure, on monotonic time.

use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;
use url::Url;

use crate::answer::{Failure, Granted};

/// A token is renewed so long before it ends, or a fifth of its lifetime where that is less: a request that is
/// under way then, and clocks that disagree a little, do not turn into refusals.
const MARGIN_MAX: Duration = Duration::from_mins(1);
const MARGIN_FRACTION: u32 = 5;

/// Waits after a failure before the next token request: doubled with each further one, up to the greatest.
const AWAY_WAIT: Duration = Duration::from_secs(5);
const AWAY_WAIT_MAX: Duration = Duration::from_mins(5);
/// Someone must act before a refusal ends; endpoints lock clients out that ask on and on.
const REFUSED_WAIT: Duration = Duration::from_mins(1);
const REFUSED_WAIT_MAX: Duration = Duration::from_mins(15);

/// A source that refuses each new token gets no more than one a minute.
const RENEWED_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// What is held between two requests.
#[derive(Default)]
pub(crate) struct Cache {
    token: Option<Token>,
    failure: Option<(Failure, Instant)>,
    failures: u32,
    renewed_at: Option<Instant>,
    /// Where tokens are granted, once it was found out.
    pub(crate) token_url: Option<Url>,
}

struct Token {
    header: HeaderValue,
    renew_at: Instant,
    ends_at: Instant,
}

impl Cache {
    /// What to show now; `None` where it must be asked for.
    pub(crate) fn ready(&self, now: Instant) -> Option<Result<HeaderValue, Failure>> {
        let token = self.token.as_ref().filter(|token| now < token.ends_at);
        let failure = self.failure.as_ref().filter(|(_, until)| now < *until);
        match (token, failure) {
            (Some(token), _) if now < token.renew_at => Some(Ok(token.header.clone())),
            // It runs out and could not be renewed: it is good for as long as it lasts.
            (Some(token), Some(_)) => Some(Ok(token.header.clone())),
            (None, Some((failure, _))) => Some(Err(failure.clone())),
            (_, None) => None,
        }
    }

    pub(crate) fn granted(&mut self, granted: Granted, now: Instant) {
        let margin = MARGIN_MAX.min(granted.lifetime / MARGIN_FRACTION);
        let ends_at = now + granted.lifetime;
        self.token = Some(Token {
            header: granted.header,
            renew_at: ends_at - margin,
            ends_at,
        });
        self.failure = None;
        self.failures = 0;
    }

    pub(crate) fn failed(&mut self, failure: Failure, now: Instant) {
        let doubled =
            |first: Duration, most: Duration| first.saturating_mul(1 << self.failures.min(16)).min(most);
        let wait = match &failure {
            Failure::Away(_) | Failure::Busy(None) => doubled(AWAY_WAIT, AWAY_WAIT_MAX),
            Failure::Busy(Some(asked)) | Failure::Held(asked) => *asked,
            Failure::Refused(_) => doubled(REFUSED_WAIT, REFUSED_WAIT_MAX),
        };
        // Where we held ourselves back, nobody was asked, so nobody has failed.
        if !matches!(failure, Failure::Held(_)) {
            self.failures = self.failures.saturating_add(1);
            // It may have moved: it is looked up anew.
            self.token_url = None;
        }
        self.failure = Some((failure, now + wait));
    }

    /// The source refused this token. Answers whether there is or can be another one.
    pub(crate) fn refused(&mut self, header: Option<&HeaderValue>, now: Instant) -> bool {
        let current = self.token.as_ref().map(|token| &token.header);
        if current.is_none() || current != header {
            // It was replaced meanwhile, or another request has already told of it.
            return true;
        }
        let lately = |at: Instant| now.duration_since(at) < RENEWED_AGAIN_AFTER;
        if self.renewed_at.is_some_and(lately) {
            return false;
        }
        self.renewed_at = Some(now);
        self.token = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(name: &'static str, seconds: u64) -> Granted {
        Granted {
            header: HeaderValue::from_static(name),
            lifetime: Duration::from_secs(seconds),
            refresh_token: None,
        }
    }

    fn shown(cache: &Cache, now: Instant) -> Option<Result<String, Failure>> {
        let text = |header: HeaderValue| header.to_str().unwrap().to_owned();
        cache.ready(now).map(|ready| ready.map(text))
    }

    #[test]
    fn a_token_is_renewed_early_and_serves_on_while_it_cannot_be() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut cache = Cache::default();
        assert_eq!(shown(&cache, start), None);
        cache.granted(granted("a", 300), start);
        assert_eq!(shown(&cache, after(239)), Some(Ok("a".to_owned())));
        assert_eq!(shown(&cache, after(240)), None, "a fifth before its end");
        cache.failed(Failure::Away("x".to_owned()), after(240));
        assert_eq!(shown(&cache, after(244)), Some(Ok("a".to_owned())));
        assert_eq!(shown(&cache, after(245)), None, "and asked for again");
        cache.failed(Failure::Refused("y".to_owned()), after(299));
        assert_eq!(
            shown(&cache, after(300)),
            Some(Err(Failure::Refused("y".to_owned())))
        );
        cache.granted(granted("b", 3600), after(300));
        assert_eq!(shown(&cache, after(300 + 3539)), Some(Ok("b".to_owned())));
        assert_eq!(shown(&cache, after(300 + 3540)), None, "a minute before its end");
    }

    #[test]
    fn a_refused_client_asks_ever_more_seldom() {
        let mut now = Instant::now();
        let mut cache = Cache::default();
        let mut waits = Vec::new();
        for _ in 0..7 {
            cache.failed(Failure::Refused("no".to_owned()), now);
            let begun = now;
            while cache.ready(now).is_some() {
                now += Duration::from_secs(1);
            }
            waits.push(now.duration_since(begun).as_secs() / 60);
        }
        assert_eq!(waits, [1, 2, 4, 8, 15, 15, 15]);
    }

    #[test]
    fn a_token_that_the_source_refuses_is_replaced_once_a_minute() {
        let start = Instant::now();
        let mut cache = Cache::default();
        cache.granted(granted("a", 300), start);
        let (a, b) = (HeaderValue::from_static("a"), HeaderValue::from_static("b"));
        assert!(cache.refused(Some(&a), start));
        assert!(
            cache.refused(Some(&a), start),
            "told twice, by two requests at once"
        );
        cache.granted(granted("b", 300), start);
        assert!(cache.refused(Some(&a), start), "an old one, by a slow request");
        assert_eq!(shown(&cache, start), Some(Ok("b".to_owned())));
        assert!(!cache.refused(Some(&b), start + Duration::from_secs(59)));
        assert_eq!(shown(&cache, start), Some(Ok("b".to_owned())));
        assert!(cache.refused(Some(&b), start + Duration::from_mins(1)));
    }
}
