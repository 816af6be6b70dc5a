//! The rules that the promises rest on, as constants, so that the simulation can break each of them.

/// Which rules a replica follows.
pub trait Rules: 'static {
    /// Let nothing leave that vouches for what is not synced.
    const SYNC_BEFORE_SEND: bool = true;
    /// Remember which proposals have acted.
    const ACT_ONCE: bool = true;
    /// Ask a majority before a read.
    const CONFIRM_READS: bool = true;
    /// Stop the registry's clock while there is no leader, and give time when one begins.
    const CLOCK_WAITS: bool = true;
    /// Keep the deadlines in what a new replica begins from.
    const WHOLE_IMAGES: bool = true;
    /// Keep the configuration on the disk as soon as it is in force.
    const KEEP_CONFIGURATION: bool = true;
    /// Forget the log from before an image that a leader sent.
    const FENCE_OLD_LOG: bool = true;
    /// Listen to one that is to go until it is gone.
    const HEAR_OUT: bool = true;
}

/// The rules as they are meant.
#[derive(Clone, Copy, Debug)]
pub struct Sound;

impl Rules for Sound {}

/// Variants that each break one rule. The simulation must find them.
pub mod planted {
    use super::Rules;

    macro_rules! planted {
        ($($(#[$doc:meta])* $name:ident breaks $rule:ident;)*) => {$(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub struct $name;

            impl Rules for $name {
                const $rule: bool = false;
            }
        )*};
    }

    planted! {
        /// Votes and acknowledges before the disk has it.
        AckBeforeSync breaks SYNC_BEFORE_SEND;
        /// A retried proposal acts again.
        RetryTwice breaks ACT_ONCE;
        /// Reads are answered by whoever believes to lead.
        BelievedLeaderRead breaks CONFIRM_READS;
        /// Deadlines run on while nobody can renew.
        ClockRunsOn breaks CLOCK_WAITS;
        /// A replica that begins from an image has deadlines of its own.
        FreshDeadlines breaks WHOLE_IMAGES;
        /// A restart goes back to the configuration of the last image.
        ConfigurationForgotten breaks KEEP_CONFIGURATION;
        /// Whoever is to go is not listened to any more, though its vote still counts.
        DeafToTheLeaving breaks HEAR_OUT;
    }
}
