//! Runs one mode in one strategy, once in the life of the process, however many tests ask for it.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::mode::{Due, Mode, Strategy, Struck};
use super::scene::{Scene, TYPES};

/// Scenes at the same time: each mostly waits, and there are few cores.
static SCENES: Semaphore = Semaphore::const_new(24);

/// For what must come, on a machine that is busy.
const PATIENCE: Duration = Duration::from_mins(1);

/// A mode lasts this long at least, longer than a poll looks back.
const STEPS: usize = 150;
const APART: Duration = Duration::from_millis(18);

/// For what nobody waits for: several polls.
const QUIET: Duration = Duration::from_secs(1);

/// Fewer versions prove little.
const VERSIONS_MIN: usize = 200;

/// What came of it: how much was due and arrived, or what was wrong; none where it cannot be met.
pub(crate) type Verdict = Option<Result<Due, String>>;

/// Runs it.
pub(crate) async fn verdict(mode: &Mode, strategy: &Strategy) -> Verdict {
    let due = (mode.due)(strategy)?.min(Due::of(strategy));
    let _turn = SCENES.acquire().await.unwrap();
    let mut scene = Scene::raise(mode, strategy).await;
    let result = judged(&mut scene, mode, due).await;
    scene.end().await;
    Some(result.map(|()| due))
}

async fn judged(scene: &mut Scene, mode: &Mode, due: Due) -> Result<(), String> {
    if !scene.holds_within(PATIENCE, Scene::is_polled).await {
        return Err(format!("never polled: {:?}", troubles(scene)));
    }
    if let Struck::ForAWhile = mode.struck {
        scene.live(60, Duration::from_millis(5)).await;
        scene.strike(mode);
    }
    scene.live(STEPS, APART).await;
    for _ in 0..400 {
        if has_struck(scene, mode) && (mode.lasts_until)(scene) {
            break;
        }
        scene.live(1, Duration::from_millis(50)).await;
    }
    if !has_struck(scene, mode) {
        return Err("it never struck".to_owned());
    }
    (mode.holds_meanwhile)(scene)?;
    if let Struck::ForAWhile = mode.struck {
        scene.calm();
    }
    scene.live(60, Duration::from_millis(5)).await;
    // What is shown last may still be on its way, and what is invented may come last.
    let nothing_lost = |scene: &Scene| scene.lost(due).is_empty();
    scene.holds_within(PATIENCE, nothing_lost).await;
    scene.holds_within(QUIET, |_| false).await;
    let complete = scene.holds_within(PATIENCE, nothing_lost).await;
    let (lost, wrong) = (scene.lost(due), scene.wrong());
    if !complete || !lost.is_empty() || !wrong.is_empty() {
        let first = |list: &[String]| list.iter().take(5).cloned().collect::<Vec<_>>();
        return Err(format!(
            "lost {} {:?}, wrong {} {:?}, troubles {:?}",
            lost.len(),
            first(&lost),
            wrong.len(),
            first(&wrong),
            troubles(scene),
        ));
    }
    if let Some(unheard) = mode.heard.iter().find(|word| !scene.has_heard(word)) {
        return Err(format!("nothing was told of as {unheard}"));
    }
    let versions = scene.books(&TYPES).versions();
    if versions < VERSIONS_MIN {
        return Err(format!("only {versions} versions"));
    }
    Ok(())
}

fn has_struck(scene: &Scene, mode: &Mode) -> bool {
    mode.fault_names().all(|fault| scene.strikes(fault) > 0)
}

fn troubles(scene: &Scene) -> Vec<String> {
    let connection = scene.connection();
    let conditions = connection
        .feeds
        .iter()
        .filter_map(|feed| connection.condition(&feed.spec.name));
    conditions.filter_map(|condition| condition.trouble).collect()
}
