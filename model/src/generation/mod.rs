//! Answers of a model to prompts: as they are generated, piece by piece, or many at a time.

mod answer;
mod conversation;
mod generator;
mod stop;

pub use answer::{Answer, AnswerText, Ended};
pub use conversation::Conversation;
pub use generator::{AnsweringProgress, GenerationSettings, Generator, KeptText};
pub use stop::Stop;
