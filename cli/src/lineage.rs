//! A child of `everring up` ends with it, even if `up` is killed.

/// Names the process that keeps this one, for processes that `everring up` starts.
pub const PARENT_VARIABLE: &str = "EVERRING_PARENT";

/// Whether this process is kept by `everring up`.
pub fn is_kept() -> bool {
    std::env::var_os(PARENT_VARIABLE).is_some()
}

/// Asks the system to kill this process when its keeper ends, and makes sure that the keeper has not ended already.
///
/// # Errors
/// A sentence: there is no such keeper (any more), or the system refuses.
pub fn stay_with_parent() -> Result<(), String> {
    let Ok(keeper) = std::env::var(PARENT_VARIABLE) else { return Ok(()) };
    let keeper: i32 = keeper.parse().map_err(|_| {
        format!("{PARENT_VARIABLE} is {keeper:?}, which is no process number; it is for `everring up` only")
    })?;
    die_with_parent().map_err(|error| format!("cannot be bound to the life of `everring up`: {error}"))?;
    // Asked after the signal is set: whoever lost its parent before that sees another one here.
    let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get());
    if parent == Some(keeper) {
        return Ok(());
    }
    Err(format!("process {keeper}, which {PARENT_VARIABLE} names as its keeper, is not its parent; unset the variable"))
}

#[cfg(target_os = "linux")]
fn die_with_parent() -> Result<(), rustix::io::Errno> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
}

/// Elsewhere there is no such signal: children end by `up`'s own signals only.
#[cfg(not(target_os = "linux"))]
fn die_with_parent() -> Result<(), rustix::io::Errno> {
    Ok(())
}
