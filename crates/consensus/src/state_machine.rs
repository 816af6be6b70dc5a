use registry::{Answer, Command, Limits, Registry};
use stdx::Instant;

/// What replicas keep equal. The simulation gives a [`Registry`]; a shell may put a lock around one and wake readers.
pub trait StateMachine {
    /// Does a command at an agreed time.
    fn apply(&mut self, now: Instant, command: Command) -> Answer;
    /// When [`Command::Tick`] is next due.
    fn next_timeout(&self) -> Option<Instant>;
    /// Everything, to the last deadline.
    fn image(&self) -> Vec<u8>;
    /// Becomes what an image holds.
    ///
    /// # Errors
    /// A sentence: the bytes are no image.
    fn become_image(&mut self, image: &[u8]) -> Result<(), String>;
}

impl StateMachine for Registry {
    fn apply(&mut self, now: Instant, command: Command) -> Answer {
        let answer = Registry::apply(self, now, command);
        self.take_changes();
        answer
    }

    fn next_timeout(&self) -> Option<Instant> {
        Registry::next_timeout(self)
    }

    fn image(&self) -> Vec<u8> {
        Registry::image(self)
    }

    fn become_image(&mut self, image: &[u8]) -> Result<(), String> {
        *self = Registry::from_image(image, Limits::default()).map_err(|error| stdx::error_chain(&error))?;
        Ok(())
    }
}
