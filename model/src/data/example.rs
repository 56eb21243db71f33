//! What one row teaches.

use super::messages::Conversation;

/// What is to be learnt from one row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Example {
    Completion { prompt: String, completion: String },
    Messages(Conversation),
    Text { text: String },
}
