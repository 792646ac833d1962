//! Why no load could be sent.

/// Why no load could be sent. Errors of single requests are in the report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address cannot be reached.
    #[error("nothing answers at {url}: {reason}")]
    Connect {
        /// The address.
        url: String,
        /// What was said.
        reason: String,
    },
    /// The server does not describe the model, or it cannot be asked as wanted.
    #[error("model {model} at {url}: {reason}")]
    Model {
        /// The server.
        url: String,
        /// The model.
        model: String,
        /// What was said.
        reason: String,
    },
    /// Settings that cannot be, all of them.
    #[error("{}", .0.join("\n"))]
    Settings(Vec<String>),
    /// A trace that cannot be read.
    #[error("line {line}, column {column}: {reason}")]
    Trace {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A mix file that cannot be read.
    #[error("{0}")]
    Mix(String),
    /// A fleet file that cannot be read, or what in it cannot be.
    #[error("{}", .0.join("\n"))]
    Fleet(Vec<String>),
    /// This machine refuses what is needed to send.
    #[error("cannot send from here: {0}")]
    Client(#[from] std::io::Error),
}
