//! What of a conversation its template leaves out: it is in the row, and nobody learns it.

use super::message::{calls_tools, is_answer, texts};
use super::message_forms::{Chat, call_names};
use super::messages::Conversation;
use super::notice::Notice;
use super::reasoning;

/// Most messages for which the template is asked whether it reads them at all: each takes a rendering.
const MOST_TRIALS: usize = 4;

/// Notices what the rendered whole does not hold of the `learnt` messages and of the others. Reasoning is looked for
/// in the first `reasoning` messages.
pub(super) fn notice(
    chat: &Chat<'_>,
    conversation: &Conversation,
    learnt: &[bool],
    reasoning: usize,
    notices: &mut Vec<Notice>,
) {
    let mut found = Vec::new();
    let mut text = TextCursor { text: &chat.whole.text, position: 0 };
    let mut trials = 0;
    for (index, message) in chat.messages.iter().enumerate() {
        if is_answer(message) {
            let learnt = learnt[index];
            let inline = message["content"].as_str().and_then(reasoning::inline);
            let thought = reasoning::field(message).or(inline.map(|inline| inline.reasoning));
            if let Some(thought) = thought.filter(|_| learnt && index < reasoning)
                && !text.has(thought)
            {
                let tags = inline.map(|inline| inline.tags).or_else(|| reasoning::tags_of(chat.template));
                found.push(match tags {
                    Some(_) => Notice::EarlierReasoning,
                    None => Notice::ReasoningNotLearnt,
                });
            }
            let answer_is_there = match inline {
                Some(inline) => text.has(inline.rest),
                None => texts(message).all(|part| text.has(part)),
            };
            if learnt && !answer_is_there {
                found.push(Notice::AnswerLeftOut);
            }
            if learnt && calls_tools(message) && !has_calls(message, &mut text) {
                found.push(Notice::ToolCallsLeftOut);
            }
        } else if !texts(message).all(|part| text.has(part)) && trials < MOST_TRIALS {
            trials += 1;
            if chat.ignores_message(index) {
                let role = message["role"].as_str().unwrap_or_default();
                found.push(Notice::MessageLeftOut(role.to_owned()));
            }
        }
    }
    let has_tools = conversation.tools.as_array().is_some_and(|tools| !tools.is_empty());
    if has_tools && chat.ignores_tools() {
        found.push(Notice::ToolsLeftOut);
    }
    for notice in found {
        if !notices.contains(&notice) {
            notices.push(notice);
        }
    }
}

fn has_calls(message: &serde_json::Value, text: &mut TextCursor<'_>) -> bool {
    call_names(message).all(|name| text.text[text.position..].contains(name))
}

/// A text in which parts are looked for, each behind the one before where it can be.
struct TextCursor<'a> {
    text: &'a str,
    position: usize,
}

impl TextCursor<'_> {
    fn has(&mut self, part: &str) -> bool {
        let part = part.trim();
        if let Some(offset) = self.text[self.position..].find(part) {
            self.position += offset + part.len();
            return true;
        }
        holds(self.text, part)
    }
}

/// True when the text holds the part, whatever the white space in it.
pub(super) fn holds(text: &str, part: &str) -> bool {
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    text.contains(part.trim()) || squeezed(text).contains(&squeezed(part))
}
