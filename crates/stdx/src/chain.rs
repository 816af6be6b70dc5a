use std::error::Error;

/// An error with all its causes, as one line: `what: why: why`.
///
/// Our errors' `Display` never repeats their source, so that the chain reads without echoes.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
