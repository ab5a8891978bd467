use std::time::Duration;

use courier_sdk::{FeedName, FetchMode, Ids, RecordId, RecordType, Scope};

use super::*;

fn feed(detect: Detect, filter: &str) -> FeedSpec {
    FeedSpec {
        name: FeedName::parse("a").unwrap(),
        record_type: RecordType::parse("Appointment").unwrap(),
        filter: filter.to_owned(),
        start: Start::Now,
        overlap: Duration::from_mins(5),
        fetch: FetchMode::FromPage,
        detect,
        include: Vec::new(),
        scope: Scope::default(),
    }
}

fn generic() -> Profile {
    Profile::builtin("generic").unwrap()
}

fn offer(history: HistoryOffer) -> Offer {
    Offer {
        history,
        search: SearchOffer::Named,
    }
}

#[test]
fn a_history_is_chosen_where_it_is_offered_unless_the_configuration_says_otherwise() {
    let unknown = || HistoryOffer::Unknown("status 500".to_owned());
    let (history, search) = (Strategy::History, Strategy::LastUpdated);
    let offered = || HistoryOffer::Offered;
    let rows = [
        (Detect::Auto, "", true, offered(), None, history),
        (Detect::Auto, "", true, offered(), Some(By::LastUpdated), history),
        (
            Detect::Auto,
            "",
            true,
            HistoryOffer::NotOffered,
            Some(By::History),
            search,
        ),
        (
            Detect::Auto,
            "",
            true,
            HistoryOffer::Refused,
            Some(By::History),
            search,
        ),
        (Detect::Auto, "", true, unknown(), None, search),
        (Detect::Auto, "", true, unknown(), Some(By::LastUpdated), search),
        (Detect::Auto, "", true, unknown(), Some(By::History), history),
        (Detect::Auto, "", false, offered(), Some(By::History), search),
        (Detect::Auto, "status=booked", true, offered(), None, search),
        (Detect::History, "", false, unknown(), None, history),
        (
            Detect::LastUpdated,
            "",
            true,
            offered(),
            Some(By::History),
            search,
        ),
    ];
    for (detect, filter, trust_history, history, moved, expected) in rows {
        let profile = Profile {
            trust_history,
            ..generic()
        };
        let (strategy, why) = choose(&feed(detect, filter), &profile, offer(history.clone()), moved).unwrap();
        assert_eq!(
            strategy, expected,
            "{detect:?} {filter} {trust_history} {history:?} {moved:?}"
        );
        assert!(!why.is_empty());
    }
}

#[test]
fn without_a_history_the_search_by_change_is_chosen_where_it_can_be_relied_on() {
    let (search, window) = (Strategy::LastUpdated, Strategy::Window);
    let rows = [
        (LastUpdated::Always, SearchOffer::NotNamed, None, search),
        (LastUpdated::Always, SearchOffer::Ignored, None, window),
        (
            LastUpdated::Always,
            SearchOffer::Unknown,
            Some(By::Listing),
            search,
        ),
        (
            LastUpdated::Claimed,
            SearchOffer::Named,
            Some(By::Listing),
            search,
        ),
        (LastUpdated::Claimed, SearchOffer::NotNamed, None, window),
        (LastUpdated::Claimed, SearchOffer::Unknown, None, search),
        (
            LastUpdated::Claimed,
            SearchOffer::Unknown,
            Some(By::Listing),
            window,
        ),
        (LastUpdated::Never, SearchOffer::Named, None, window),
    ];
    for (last_updated, search, moved, expected) in rows {
        let profile = Profile {
            last_updated,
            ..generic()
        };
        let offer = Offer {
            history: HistoryOffer::NotOffered,
            search,
        };
        let chosen = choose(&feed(Detect::Auto, ""), &profile, offer, moved).unwrap();
        assert_eq!(chosen.0, expected, "{last_updated:?} {search:?} {moved:?}");
    }
}

#[test]
fn types_that_need_a_patient_need_a_roster_and_a_list_of_ids_is_read() {
    let profile = Profile {
        patient_required: vec!["*".to_owned()],
        ..generic()
    };
    let mut spec = feed(Detect::Auto, "");
    let chosen = |spec: &FeedSpec| choose(spec, &profile, offer(HistoryOffer::NotOffered), None);
    assert!(chosen(&spec).unwrap_err().contains("roster"));
    spec.scope.roster = Roster::Group(RecordId::parse("g").unwrap());
    assert_eq!(chosen(&spec).unwrap().0, Strategy::Roster);
    spec.scope.ids = Ids([RecordId::parse("7").unwrap()].into());
    assert_eq!(chosen(&spec).unwrap().0, Strategy::Read);
    for detect in [Detect::Roster, Detect::Read] {
        assert!(chosen(&feed(detect, "")).is_err(), "{detect:?}");
    }
}
