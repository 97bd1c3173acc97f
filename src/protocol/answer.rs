//! Why a reply of the model server's cannot be kept row by row, whichever protocol it came in.

/// Why a reply cannot be taken apart or put together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not a message of this protocol.
    #[error("the reply does not decode: {0}")]
    Decode(String),
    /// An output without the rows asked for.
    #[error("output '{output}' has shape {shape:?}, expected {rows} rows first")]
    Rows {
        /// Its name.
        output: String,
        /// Its shape.
        shape: Vec<i64>,
        /// Rows asked for.
        rows: usize,
    },
    /// An output whose bytes are not those of its shape.
    #[error("output '{0}' does not have the bytes of its shape")]
    Bytes(String),
    /// Rows that do not form one batch.
    #[error("the rows' answers differ in {0}")]
    Differ(&'static str),
}
