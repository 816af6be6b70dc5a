//! What a storage node does when its pod ends: whether `kubectl scale` took it away for good, or it comes back.

use std::time::Duration;

use storage_node::Parting;

/// How often the API is asked before the node drains as if it came back.
const ATTEMPTS: u32 = 3;
/// Between two attempts.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Waits until `told` to end, and finds out what for.
///
/// Where the API cannot tell, the node drains: a node that was to leave and did not is missed by nobody but its ring,
/// which says so, while one that leaves at each restart would be copied around for nothing.
pub async fn parting(told: impl Future<Output = ()>, set: String, pod: String, within: Duration) -> Parting {
    let mut told = std::pin::pin!(told);
    // Asked at the start too, where a missing right can still be granted. Nobody waits for it.
    let first = async {
        match is_scaled_away(&set, &pod).await {
            Ok(_) => {}
            Err(error) => tracing::warn!(
                error,
                set,
                "it cannot be seen how many pods this set is to have: scaled down, this node would merely \
                drain, and would have to be removed from the ring by hand (everring ring remove)"
            ),
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = &mut told => {}
        () = first => {}
    }
    for attempt in 1..=ATTEMPTS {
        match is_scaled_away(&set, &pod).await {
            Ok(true) => {
                tracing::info!(set, "scaled down below this pod: leaving the ring");
                return Parting::Leave(within);
            }
            Ok(false) => return Parting::Drain,
            Err(error) => tracing::warn!(error, set, attempt, "it cannot be seen whether this pod comes back"),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    Parting::Drain
}

async fn is_scaled_away(set: &str, pod: &str) -> Result<bool, String> {
    kubernetes::is_scaled_away(set, pod).await.map_err(|error| stdx::error_chain(&error))
}
