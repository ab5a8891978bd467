//! What stands in front of the store, as the configuration says.

use std::sync::Arc;

use super::AppError;
use crate::config;
use crate::dedup::Dedup;
use crate::dedup::memory::MemoryDedup;
use crate::dedup::redis::RedisDedup;
use crate::store::Store;

/// Makes the deduplication of a store. Nothing is connected yet: a Redis that is away delays no start.
///
/// # Errors
/// [`AppError::Store`] when the store's epoch cannot be read; [`AppError::Compose`] for an address that cannot be used.
pub async fn dedup(config: &config::Dedup, store: &dyn Store) -> Result<Arc<dyn Dedup>, AppError> {
    let config::Dedup::Redis { address } = config else {
        return Ok(Arc::new(MemoryDedup::default()));
    };
    let epoch = store.epoch().await.map_err(AppError::Store)?;
    let redis = RedisDedup::new(address, epoch.as_str()).map_err(|error| AppError::Compose {
        what: "dedup".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Arc::new(redis))
}
