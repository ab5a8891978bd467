//! What every store means: one test per rule of the four atomic points, run against each store.
//!
//! A store joins with one line, `contract_suite!(name, home)`, where `home` is a [`Home`]: something that opens the
//! store, and opens it again as the next process would. The rules speak through [`world::World`] and know no store.

mod context;
mod control;
mod definitions;
mod fan_out;
mod inbox;
mod kept;
mod leases;
mod meaning;
mod operate;
mod outbox;
mod polling;
mod reads;
mod roll;
mod stage;
mod traces;
mod twin;
mod words;
mod world;

use std::sync::Arc;

use async_trait::async_trait;
use ehr_courier::store::Store;
use ehr_courier::store::memory::MemoryStore;
use ehr_courier::store::sqlite::{OpenMode, SqliteStore};
use tempfile::TempDir;

/// Where a store lives between two processes.
#[async_trait]
trait Home: Send + Sync {
    /// Opens the store: empty the first time, later as a killed process left it. What was opened before is dropped.
    async fn open(&self) -> Arc<dyn Store>;
}

/// Runs every rule against one store.
macro_rules! contract_suite {
    ($name:ident, $home:expr) => {
        mod $name {
            use super::*;

            contract_tests! { $home;
                leases: [
                    a_free_connection_is_granted_and_one_held_by_another_is_not,
                    every_grant_raises_the_fence,
                    a_lapsed_or_returned_lease_goes_to_another,
                    renewing_extends_what_the_holder_still_has_and_nothing_else,
                    every_write_under_an_old_fence_is_refused,
                    a_restart_ends_the_leases_and_keeps_the_fences,
                ];
                polling: [
                    a_complete_poll_moves_the_cursor,
                    a_page_keeps_its_resume_link_and_leaves_the_cursor,
                    a_slice_leaves_the_feed_alone,
                    an_inconclusive_poll_leaves_the_cursor,
                    a_page_of_a_poll_that_is_over_conflicts,
                    a_page_from_another_cursor_conflicts,
                    an_abandoned_poll_forgets_its_link,
                    setting_the_cursor_ends_the_running_poll,
                    records_that_came_along_are_events_at_dense_positions,
                    a_page_shown_again_is_known,
                    a_version_shown_twice_in_one_page_is_one_event,
                    a_version_shown_by_two_feeds_is_one_event,
                    content_that_changes_back_is_three_events,
                    a_version_before_the_start_enters_in_silence,
                    created_is_said_only_after_a_proven_baseline,
                    created_is_not_said_once_a_filter_hid_records,
                    a_version_older_than_the_head_is_late,
                    an_inferred_delete_needs_a_living_record,
                    an_oversized_record_is_quarantined_once,
                    what_was_accepted_outlives_the_process,
                ];
                context: [
                    a_record_that_came_along_waits_for_its_context,
                    a_record_that_brings_its_context_waits_for_nothing_but_its_turn,
                    a_released_stage_waits_for_its_context_too,
                    context_is_frozen_with_the_event_byte_for_byte,
                    context_counts_in_what_one_slice_and_one_claim_hold,
                ];
                stage: [
                    nothing_staged_shows_before_the_last_page,
                    a_stage_is_released_oldest_first,
                    versions_of_one_instant_leave_in_reverse_of_the_answer,
                    the_cursor_moves_with_the_last_staged_change,
                    a_staged_feed_accepts_no_page,
                    a_collecting_stage_goes_with_its_poll,
                    a_releasing_stage_goes_on_under_the_next_fence,
                    an_empty_stage_ends_at_once,
                    numbers_go_before_stamps_within_a_record,
                    a_collecting_stage_is_counted_and_what_is_discarded_is_told,
                    a_record_in_another_feeds_stage_waits,
                    a_version_that_is_staged_with_its_record_is_not_superseded,
                ];
                kept: [
                    what_was_read_is_kept_while_its_context_is_waited_for,
                    a_newer_version_that_was_read_is_kept_in_the_place_of_the_older,
                    a_newer_version_that_waits_already_takes_what_was_read,
                    what_came_along_is_not_replaced_by_what_was_read,
                    a_record_shown_again_is_read_again_behind_what_is_kept,
                    an_answer_that_is_not_known_to_be_newer_supersedes_nothing,
                ];
                inbox: [
                    a_change_without_its_record_waits_for_a_fetch,
                    one_change_per_record_is_claimed_oldest_first,
                    a_reported_failure_is_no_killed_worker,
                    what_may_have_killed_its_worker_is_claimed_alone,
                    what_the_baseline_showed_is_no_creation_when_it_is_fetched_later,
                    a_claim_ends_with_its_fence,
                    a_change_shown_again_while_it_is_fetched_stays_due,
                    a_later_version_queues_behind_a_waiting_one,
                    contents_that_wait_keep_their_order_and_number,
                    a_superseded_version_is_entered_and_counted,
                    the_next_change_due_is_told,
                    a_version_whose_record_came_along_while_it_was_fetched_is_not_superseded,
                    a_change_whose_record_came_along_is_not_given_up,
                    a_change_shown_again_waits_its_back_off_out,
                    a_change_shown_again_while_it_is_given_up_stays_due,
                    a_gone_record_is_a_delete,
                    an_incomplete_fetch_is_tried_again,
                    a_retry_waits_and_is_counted,
                    a_released_claim_counts_nothing,
                    a_row_that_is_not_claimed_is_not_settled,
                    a_quarantined_version_is_not_new,
                    a_quarantined_record_without_a_version_is_not_asked_for_again,
                    a_record_that_came_along_is_not_taken_for_a_quarantined_one,
                    a_version_before_an_inferred_delete_does_not_undo_it,
                    a_redriven_change_starts_anew,
                    claims_are_counted_through_a_crash,
                    accepted_ids_are_answered,
                ];
                reads: [
                    what_was_shown_before_a_read_is_told_of_before_the_delete_that_it_found,
                    what_is_shown_again_at_every_poll_keeps_nothing_else_waiting,
                    a_claim_tells_the_head_of_a_record_that_must_be_read,
                    a_version_that_still_stands_settles_as_known,
                    a_record_that_may_not_be_read_is_told_of_once_and_keeps_its_head,
                ];
                roll: [
                    a_roll_is_read_in_the_order_of_its_ids_and_outlives_the_process,
                    a_record_that_is_no_longer_listed_is_read_by_itself,
                    a_record_that_nobody_told_of_or_that_is_deleted_disappears_in_silence,
                    a_record_whose_change_waits_stays_on_the_roll,
                    a_record_in_quarantine_waits_for_the_operator,
                    a_roll_is_kept_under_the_lease_only,
                    forgetting_the_cursor_forgets_the_roll,
                    records_join_a_roll_with_their_page_whether_or_not_its_poll_ends,
                    a_record_that_was_asked_about_is_news_when_it_is_named_again,
                    a_record_that_was_taken_for_deleted_and_is_listed_again_is_read,
                    a_record_that_is_shown_again_and_is_not_there_stays_deleted,
                    a_feed_knows_when_it_completed_last_and_what_it_found,
                ];
                fan_out: [
                    numbers_are_dense_per_subscription_and_connection,
                    a_slice_of_an_older_revision_conflicts,
                    a_slice_from_another_position_conflicts,
                    an_event_given_twice_costs_no_number,
                    one_event_may_take_many_slices,
                    a_suspended_subscription_catches_up_and_rejoins,
                    a_lane_does_not_rejoin_within_an_event,
                    the_view_is_bounded,
                    positions_and_numbers_outlive_the_process,
                ];
                definitions: [
                    the_revision_moves_only_with_a_change,
                    a_new_subscription_begins_now_or_at_the_beginning,
                    a_new_connection_is_covered_by_all,
                    a_removed_subscription_is_cancelled_and_its_name_counts_on,
                    an_edit_applies_to_what_was_not_attempted,
                    narrower_content_applies_to_everything_pending,
                    what_was_settled_before_content_narrowed_is_owed_again_narrow,
                    what_was_settled_narrow_is_not_owed_again_wider,
                    nothing_is_owed_again_to_a_removed_subscription,
                    a_redrive_passes_over_what_is_not_in_force,
                    what_a_lost_destination_was_owed_goes_where_the_subscription_goes_now,
                    a_moved_delivery_does_not_grow_wider,
                    a_connection_that_left_is_owed_nothing_until_it_returns,
                    a_name_that_begins_again_is_owed_what_was_cancelled,
                ];
                outbox: [
                    at_most_one_delivery_per_record_is_in_flight,
                    one_subscription_does_not_hold_up_another,
                    only_connections_leased_by_the_holder_are_claimed,
                    a_retry_is_a_row_with_a_due_time,
                    a_dead_letter_lets_the_next_version_go,
                    an_attempt_under_an_old_fence_is_left_out,
                    a_released_attempt_counts_nothing,
                    due_destinations_are_named_with_the_next_due_time,
                    a_backlog_holds_up_no_other_connection,
                    waiting_connections_take_turns,
                    claims_of_one_place_go_round_too,
                    a_redriven_delivery_waits_for_the_one_in_flight,
                    a_replayed_event_is_owed_again_under_its_number,
                    claims_are_lost_with_the_process,
                ];
                meaning: [
                    what_a_version_means_goes_into_the_event_and_to_the_delivery,
                    what_waits_with_its_record_keeps_what_that_says,
                    a_merged_record_is_remembered_until_it_no_longer_says_so,
                    a_version_without_a_change_moves_the_head_and_is_no_event_where_that_is_asked_for,
                    a_version_without_a_change_is_no_event_when_it_was_staged_or_fetched,
                    changes_of_feeds_that_give_way_are_claimed_behind_all_others,
                ];
                traces: [a_trace_goes_with_its_change_into_the_event_and_to_the_delivery,];
                operate: [
                    what_a_cursor_that_stands_still_may_show_again_is_not_forgotten,
                    events_are_listed_newest_first_with_their_deliveries,
                    dead_letters_are_chosen_by_destination_subscription_and_id,
                    a_redrive_takes_the_oldest_and_one_slice_at_most,
                    the_backlog_counts_what_waits,
                    depths_count_what_waits_in_every_place,
                    cursors_and_quarantine_are_listed,
                    the_sweep_takes_what_is_settled_and_old,
                    the_sweep_keeps_events_that_a_lane_has_not_passed,
                    accepted_ids_expire_when_the_source_cannot_show_them,
                ];
                control: [
                    a_paused_subscription_is_numbered_on_and_claims_nothing,
                    a_pause_outlives_the_process_and_names_what_is_in_force,
                    a_resumed_line_goes_on_with_its_lowest_number,
                    a_pause_uses_up_no_retry_schedule,
                    the_epoch_stays_until_a_recovery,
                    a_recovery_rewinds_ends_polls_and_raises_numbers,
                    a_releasing_stage_ends_where_the_recovery_says,
                    what_operators_change_is_audited,
                ];
                twin: [
                    random_work_shows_what_the_specification_shows,
                ];
            }
        }
    };
}

macro_rules! contract_tests {
    ($home:expr; $($group:ident: [$($rule:ident,)*];)*) => {
        $($(
            #[tokio::test]
            async fn $rule() {
                super::$group::$rule(&$home).await;
            }
        )*)*
    };
}

/// The memory store: the next process finds the same tables without what is volatile.
struct MemoryHome(MemoryStore);

#[async_trait]
impl Home for MemoryHome {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.0.reopened())
    }
}

contract_suite!(memory, MemoryHome(MemoryStore::new()));

/// The SQLite store: the next process opens the same file.
struct SqliteHome(TempDir);

#[async_trait]
impl Home for SqliteHome {
    async fn open(&self) -> Arc<dyn Store> {
        let path = self.0.path().join("courier.db");
        Arc::new(SqliteStore::open(&path, OpenMode::Service).unwrap())
    }
}

contract_suite!(sqlite, SqliteHome(tempfile::tempdir().unwrap()));
