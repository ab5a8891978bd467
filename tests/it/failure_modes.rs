//! What real sources do to whoever polls them, each in every strategy that can meet it: nothing shown is lost, nothing is
//! invented, and each fault struck. docs/polling.md shows the outcome as a table.

mod judge;
mod mode;
mod modes;
mod run;
mod scene;
mod table;

use futures_util::future::join_all;
use tokio::sync::OnceCell;

use mode::{Mode, STRATEGIES, Strategy};
use modes::MODES;
use run::Verdict;

/// What came of each mode, run once in the life of the process.
static VERDICTS: [OnceCell<Vec<Verdict>>; MODES.len()] = [const { OnceCell::const_new() }; MODES.len()];

async fn verdicts(index: usize) -> &'static [Verdict] {
    let mode = &MODES[index];
    let all = async || join_all(STRATEGIES.iter().map(|it| run::verdict(mode, it))).await;
    VERDICTS[index].get_or_init(all).await
}

/// The modes whose tests were asked for, as the test harness reads its arguments: they mostly wait, and do so together.
fn asked_for() -> Vec<usize> {
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let meant = |name: &str| {
        let path = format!("failure_modes::{name}");
        filters.is_empty() || filters.iter().any(|filter| path.contains(filter.as_str()))
    };
    (0..MODES.len())
        .filter(|index| meant(MODES[*index].name))
        .collect()
}

/// What was wrong, by strategy.
fn complaints(verdicts: &[Verdict]) -> Vec<String> {
    let of = |(strategy, verdict): (&Strategy, &Verdict)| match verdict {
        Some(Err(complaint)) => Some(format!("{}: {complaint}", strategy.name)),
        Some(Ok(_)) | None => None,
    };
    STRATEGIES.iter().zip(verdicts).filter_map(of).collect()
}

async fn check(name: &str) {
    let index = MODES.iter().position(|mode: &Mode| mode.name == name).unwrap();
    join_all(asked_for().into_iter().map(verdicts)).await;
    let complaints = complaints(verdicts(index).await);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

macro_rules! modes {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                check(stringify!($name)).await;
            }
        )*

        #[test]
        fn every_mode_has_a_test_of_its_name() {
            let tested = [$(stringify!($name)),*];
            assert_eq!(tested.as_slice(), MODES.iter().map(|mode| mode.name).collect::<Vec<_>>());
        }
    };
}

modes!(
    a_source_that_does_not_answer_stops_its_own_poll_and_no_longer_than_the_deadline,
    a_daily_cap_that_is_reached_pauses_the_connection_until_the_sources_day_ends,
    a_rate_limit_slows_the_connection_down,
    retry_after_is_obeyed,
    a_throttling_without_a_time_is_answered_by_backing_off,
    a_limit_told_in_a_successful_answer_is_a_limit,
    a_vendors_error_in_a_successful_answer_is_no_answer,
    a_peak_window_costs_money_and_no_changes,
    what_changes_during_maintenance_arrives_after_it,
    a_token_that_ends_between_two_pages_is_replaced_and_the_page_asked_for_again,
    a_token_that_is_refused_before_its_time_is_replaced_once,
    a_row_shown_twice_is_one_event,
    a_version_that_is_committed_late_is_still_seen,
    rows_of_one_stamp_over_many_pages_all_arrive,
    rows_that_shift_between_pages_are_not_skipped,
    rows_that_shift_between_pages_asked_for_by_offset_are_not_skipped,
    a_page_link_that_expires_begins_the_poll_anew_from_its_cursor,
    a_descending_answer_moves_the_cursor_only_when_it_is_complete,
    an_answer_in_no_order_moves_the_cursor_only_when_it_is_complete,
    stamps_of_whole_seconds_hide_no_change,
    stamps_of_whole_days_hide_no_change,
    a_reindex_loses_nothing_and_invents_nothing,
    a_reindex_is_not_told_of_where_unchanged_versions_are_not_asked_for,
    a_change_that_does_not_move_its_stamp_harms_no_other,
    a_content_replaced_in_silence_harms_no_other,
    a_delete_that_a_history_lists_is_told_and_none_is_made_up,
    a_delete_that_nothing_tells_of_is_not_made_up,
    an_answer_that_counts_more_than_it_shows_moves_no_cursor_past_it,
    an_answer_cut_in_silence_makes_no_record_deleted,
    a_record_entered_in_error_is_told_as_an_update_with_that_reason,
    a_merge_is_told_as_one_and_of_both_patients,
    a_merge_that_is_undone_is_told_with_that_reason,
    a_type_that_fails_holds_up_no_other,
    a_record_that_is_shown_and_not_found_is_asked_for_again_and_not_called_deleted,
    a_record_that_is_shown_and_forbidden_is_asked_for_again_and_not_called_deleted,
    a_record_that_moves_out_of_our_access_is_not_called_deleted,
    a_record_that_changes_before_it_is_read_is_told_of_as_it_is,
    a_cached_answer_hides_a_change_for_a_while_and_not_for_good,
    a_source_whose_clock_is_behind_loses_nothing,
    numbers_in_the_place_of_texts_are_read_as_texts,
    records_without_meta_are_told_apart_by_their_content,
    versions_that_are_no_numbers_are_versions,
    a_page_smaller_than_asked_for_is_not_taken_for_the_last,
);

/// All at once, so that those that wait do so together.
#[tokio::test(flavor = "multi_thread")]
async fn the_document_shows_the_outcome_of_each_mode_in_each_strategy() {
    let all = join_all((0..MODES.len()).map(verdicts)).await;
    let wrong: Vec<String> = MODES
        .iter()
        .zip(&all)
        .flat_map(|(mode, verdicts)| {
            complaints(verdicts)
                .into_iter()
                .map(|it| format!("{}: {it}", mode.name))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    table::compare(&all);
}
