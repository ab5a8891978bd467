//! The modes, in the order of docs/sandbox.md.

use super::mode::{Due, Mode, Strategy};
use super::scene::{Scene, TYPES};

/// Only strategies that read each changed record meet what reads meet.
fn where_records_are_read(strategy: &Strategy) -> Option<Due> {
    strategy.reads.then(|| Due::of(strategy))
}

/// Each day a few requests come too much: those that were under way when the first was refused.
fn few_requests_were_refused_each_day(scene: &Scene) -> Result<(), String> {
    let refused = scene.strikes("daily_cap");
    let days = scene.age().as_secs() / 3 + 2;
    if refused > 3 * days {
        return Err(format!("{refused} requests were refused in {days} days"));
    }
    Ok(())
}

fn the_other_types_arrive(scene: &Scene) -> bool {
    let others: Vec<&str> = TYPES.into_iter().filter(|it| *it != "Observation").collect();
    let lost = scene
        .books(&others)
        .lost(Due::State.min(scene.due), scene.each_as_shown, &scene.arrived);
    // The last changes may be on their way.
    lost.len() <= 6
}

fn one_token_more(scene: &Scene) -> Result<(), String> {
    match scene.ehr.tokens_granted() {
        2 => Ok(()),
        granted => Err(format!("{granted} tokens were granted")),
    }
}

fn two_deletes_were_made(scene: &Scene) -> bool {
    let kept = scene.ehr.kept();
    let deleted = kept
        .iter()
        .filter(|it| it.deleted && TYPES.contains(&it.record_type.as_str()));
    deleted.count() >= 2
}

pub(crate) const MODES: [Mode; 43] = [
    Mode::of(
        28,
        "a_source_that_does_not_answer_stops_its_own_poll_and_no_longer_than_the_deadline",
        &["hang=1,times=1"],
    ),
    Mode::of(
        1,
        "a_daily_cap_that_is_reached_pauses_the_connection_until_the_sources_day_ends",
        &["daily_cap=12,day_seconds=3"],
    )
    .meanwhile(few_requests_were_refused_each_day),
    Mode::of(1, "a_rate_limit_slows_the_connection_down", &["rate_limit=4"]),
    Mode::of(
        1,
        "retry_after_is_obeyed",
        &["throttle_with_retry_after=0.05,seconds=1"],
    ),
    Mode::of(
        1,
        "a_throttling_without_a_time_is_answered_by_backing_off",
        &["throttle_without_retry_after=0.05"],
    ),
    Mode::of(
        2,
        "a_limit_told_in_a_successful_answer_is_a_limit",
        &["inband_throttled=0.05"],
    ),
    Mode::of(
        2,
        "a_vendors_error_in_a_successful_answer_is_no_answer",
        &["inband_vendor_error=0.1"],
    ),
    Mode::of(
        3,
        "a_peak_window_costs_money_and_no_changes",
        &["peak_window=1,from_second=0,until_second=86400"],
    ),
    Mode::of(
        4,
        "what_changes_during_maintenance_arrives_after_it",
        &["maintenance=2,from_second=0,day_seconds=4"],
    ),
    Mode::of(
        5,
        "a_token_that_ends_between_two_pages_is_replaced_and_the_page_asked_for_again",
        &["token_ends_mid_page=1,times=1"],
    )
    .by_tokens()
    .meanwhile(one_token_more),
    Mode::of(
        5,
        "a_token_that_is_refused_before_its_time_is_replaced_once",
        &["unauthorized=1,times=1"],
    )
    .by_tokens()
    .meanwhile(one_token_more),
    Mode::of(6, "a_row_shown_twice_is_one_event", &["duplicates=0.5"]),
    Mode::of(
        7,
        "a_version_that_is_committed_late_is_still_seen",
        &["late_commits=0.3,delay_ms_max=900"],
    ),
    Mode::of(
        8,
        "rows_of_one_stamp_over_many_pages_all_arrive",
        &["equal_timestamps=5000"],
    ),
    Mode::of(
        9,
        "rows_that_shift_between_pages_are_not_skipped",
        &["page_drift=1"],
    ),
    Mode::of(
        9,
        "rows_that_shift_between_pages_asked_for_by_offset_are_not_skipped",
        &["page_drift=1"],
    )
    .spoken(&["page_style=offset"]),
    Mode::of(
        10,
        "a_page_link_that_expires_begins_the_poll_anew_from_its_cursor",
        &["expired_links=0.3"],
    ),
    Mode::of(
        11,
        "a_descending_answer_moves_the_cursor_only_when_it_is_complete",
        &["descending_pages=1"],
    )
    .due(|strategy| (!strategy.sees_every_version).then(|| Due::of(strategy))),
    Mode::of(
        11,
        "an_answer_in_no_order_moves_the_cursor_only_when_it_is_complete",
        &["wrong_sort=1"],
    )
    .due(|strategy| (!strategy.sees_every_version).then(|| Due::of(strategy))),
    Mode::of(12, "stamps_of_whole_seconds_hide_no_change", &[]).spoken(&["granularity=second"]),
    Mode::of(12, "stamps_of_whole_days_hide_no_change", &[]).spoken(&["granularity=day"]),
    Mode::of(
        14,
        "a_reindex_loses_nothing_and_invents_nothing",
        &["touch_all=0.01"],
    ),
    Mode::of(
        14,
        "a_reindex_is_not_told_of_where_unchanged_versions_are_not_asked_for",
        &["touch_all=0.02"],
    )
    .configured("unchanged = \"suppress\"\n"),
    Mode::of(
        15,
        "a_change_that_does_not_move_its_stamp_harms_no_other",
        &["silent_change=0.2"],
    )
    .due(|_| Some(Due::Shown)),
    Mode::of(
        15,
        "a_content_replaced_in_silence_harms_no_other",
        &["silent_content=0.2"],
    )
    .due(|_| Some(Due::Shown)),
    Mode::of(
        16,
        "a_delete_that_a_history_lists_is_told_and_none_is_made_up",
        &[],
    )
    .spoken(&["delete_mode=not-found"])
    .until(two_deletes_were_made)
    // A listing believes a 404 only when it is repeated after a minute, which is longer than this lasts.
    .due(|strategy| (!strategy.lists()).then(|| Due::of(strategy))),
    Mode::of(16, "a_delete_that_nothing_tells_of_is_not_made_up", &[])
        .spoken(&["delete_mode=vanish"])
        .until(two_deletes_were_made)
        .due(|_| Some(Due::State)),
    Mode::of(
        17,
        "an_answer_that_counts_more_than_it_shows_moves_no_cursor_past_it",
        &["truncate_page=0.3,total=true"],
    ),
    Mode::of(
        17,
        "an_answer_cut_in_silence_makes_no_record_deleted",
        &["truncate_page=0.3,total=false"],
    )
    .due(|strategy| {
        // A history is cut at its older end, and nothing says so.
        Some(if strategy.sees_every_version {
            Due::Shown
        } else {
            Due::State
        })
    }),
    Mode::of(
        18,
        "a_record_entered_in_error_is_told_as_an_update_with_that_reason",
        &["entered_in_error=0.1"],
    )
    .heard(&["entered-in-error"]),
    Mode::of(19, "a_merge_is_told_as_one_and_of_both_patients", &["merge=0.05"]).heard(&["merged"]),
    Mode::of(
        19,
        "a_merge_that_is_undone_is_told_with_that_reason",
        &["merge=0.05", "unmerge=0.05"],
    )
    .heard(&["merged", "unmerged"]),
    Mode::of(
        20,
        "a_type_that_fails_holds_up_no_other",
        &["fail_type=Observation"],
    )
    .until(the_other_types_arrive)
    .meanwhile(|scene| {
        let holds = the_other_types_arrive(scene);
        holds
            .then_some(())
            .ok_or_else(|| "the other types wait".to_owned())
    }),
    Mode::of(
        21,
        "a_record_that_is_shown_and_not_found_is_asked_for_again_and_not_called_deleted",
        &["fetch_404=0.1"],
    )
    .due(where_records_are_read),
    Mode::of(
        21,
        "a_record_that_is_shown_and_forbidden_is_asked_for_again_and_not_called_deleted",
        &["fetch_403=0.1"],
    )
    .due(where_records_are_read),
    Mode::of(
        21,
        "a_record_that_moves_out_of_our_access_is_not_called_deleted",
        &["moved_out=0.1"],
    ),
    Mode::of(
        22,
        "a_record_that_changes_before_it_is_read_is_told_of_as_it_is",
        &["mutate_before_fetch=0.3"],
    )
    .of_a_stranger()
    .due(where_records_are_read),
    Mode::of(
        26,
        "a_cached_answer_hides_a_change_for_a_while_and_not_for_good",
        &["stale_cache=0.5,seconds=1"],
    )
    // Whoever asks about a few records at a time asks for the same seldom enough.
    .due(|strategy| (!strategy.by_list).then(|| Due::of(strategy))),
    Mode::of(
        29,
        "a_source_whose_clock_is_behind_loses_nothing",
        &["clock_skew_seconds=-90"],
    )
    .throughout(),
    Mode::of(
        30,
        "numbers_in_the_place_of_texts_are_read_as_texts",
        &["mixed_types=0.5"],
    ),
    Mode::without_number("records_without_meta_are_told_apart_by_their_content", &[])
        .spoken(&["no_meta", "no_history"])
        .due(|strategy| (!strategy.sees_every_version).then_some(Due::State))
        .of_a_stranger(),
    Mode::without_number("versions_that_are_no_numbers_are_versions", &[])
        .spoken(&["uuid_versions"])
        .of_a_stranger(),
    Mode::without_number("a_page_smaller_than_asked_for_is_not_taken_for_the_last", &[])
        .spoken(&["max_count=7"])
        .of_a_stranger(),
];
