//! Which parts of a rendered conversation are turns of the assistant: from where generation would begin to
//! what ends the turn.

use std::ops::Range;

use serde_json::Value;

use super::message::{calls_tools, is_answer, texts};
use super::message_forms::{Chat, RenderedPrefix, same_bytes};
use super::messages::Conversation;
use super::notice::Notice;
use super::omissions::holds;
use super::reasoning::{self, Inline, Opening};
use crate::control_tokens::{Alias, ControlTokens, aliases, outside_alias};
use crate::error::Reasoned;
use crate::tokenizer::Tokenizer;

/// The text of a row, and the turns of the assistant in it that are learnt.
pub(super) struct AssistantTurns {
    /// Control tokens are written as aliases.
    pub text: String,
    /// Bytes of the turns, in order, each with what ends it; the last is the last answer.
    pub turns: Vec<Range<usize>>,
    /// True when nothing in the last turn tells generation to stop: EOS has to follow.
    pub needs_eos: bool,
    /// Messages that are to be learnt, and that the text does not hold as they would be generated.
    pub changed: Vec<usize>,
}

/// Finds the turns by generation prompts: a turn begins where the messages before it, rendered with one, end.
pub(super) fn find(
    chat: &Chat<'_>,
    conversation: &Conversation,
    tokenizer: &Tokenizer,
    notices: &mut Vec<Notice>,
) -> Reasoned<AssistantTurns> {
    let last = chat.messages.len() - 1;
    let prompt = if last == 0 { first_prompt(chat)? } else { chat.prompt(last)?.text() };
    let text = with_last_answer(chat, &prompt, tokenizer, notices)?;
    let known = same_bytes(text.as_bytes(), chat.whole.text.as_bytes());
    let mut finder = Finder { chat, tokenizer, text: &text, known, turns: Vec::new() };
    let mut changed = Vec::new();
    for index in (0..last).filter(|&index| conversation.learnt[index]) {
        match finder.earlier_turn(index, prompt.len()) {
            Some(turn) => finder.turns.push(turn),
            None => changed.push(index),
        }
    }
    let mut turns = finder.turns;
    let turn = &text[prompt.len()..];
    let stop = first_stop(tokenizer, turn);
    let end = stop.map_or(turn.trim_end().len(), |alias| alias.end);
    turns.push(prompt.len()..prompt.len() + end);
    let ended = stop.is_some() || ends_by_itself(tokenizer, &turn[..end], &chat.messages[last])?;
    Ok(AssistantTurns { text, turns, needs_eos: !ended, changed })
}

/// The prompt of an answer that nothing precedes: no model is asked with no messages, so it is what the template
/// writes before the answer, where that ends as its generation prompts do. Else it is what the template makes of
/// no messages.
fn first_prompt(chat: &Chat<'_>) -> Reasoned<String> {
    let whole = chat.whole.text.as_str();
    let answer = chat.messages.first().and_then(|message| texts(message).next()).unwrap_or_default().trim();
    let asked_again = chat.prompt(1).map(|prompt| prompt.text()).unwrap_or_default();
    let opening = asked_again.strip_prefix(whole).unwrap_or_default();
    if !opening.is_empty() {
        // The answer's text may also stand in what the template writes before it.
        let befores = whole.match_indices(answer).map(|(start, _)| &whole[..start]);
        let mut prompts = befores.flat_map(|before| [before, before.trim_end()]);
        if let Some(prompt) = prompts.find(|prompt| prompt.ends_with(opening)) {
            return Ok(prompt.to_owned());
        }
    }
    chat.prompt(0).map(|prompt| prompt.text()).map_err(|_| {
        "the answer is the first message, and the chat template does not show how it asks for one: put a message \
         of the role `user` before it"
            .into()
    })
}

fn first_stop(tokenizer: &Tokenizer, text: &str) -> Option<Alias> {
    aliases(text).find(|alias| tokenizer.stop_tokens().contains(&alias.id))
}

/// True when one token that the template wrote behind the answer ends the turn, though the folder does not
/// name it as a token at which generation ends.
fn ends_by_itself(tokenizer: &Tokenizer, turn: &str, message: &Value) -> Reasoned<bool> {
    if texts(message).last().is_some_and(|text| !text.trim().is_empty() && turn.ends_with(text.trim())) {
        return Ok(false);
    }
    let last_line = turn.rfind('\n').map_or(0, |position| position + 1);
    let ids = tokenizer.aliased_ids(&turn[last_line..])?;
    Ok(ids.last().is_some_and(|&id| tokenizer.is_added(id)))
}

/// Where a message ends.
struct Boundary {
    byte: usize,
    /// True when all that the template writes of the conversation up to the message is in the text.
    exact: bool,
}

struct Finder<'a> {
    chat: &'a Chat<'a>,
    tokenizer: &'a Tokenizer,
    text: &'a str,
    /// Bytes with which the text begins as the rendered whole does.
    known: usize,
    turns: Vec<Range<usize>>,
}

impl Finder<'_> {
    /// The turn of a message before the last prompt, which ends at byte `limit`. `None` when the template
    /// writes it otherwise than it would be generated, or refuses a beginning of the conversation.
    fn earlier_turn(&self, index: usize, limit: usize) -> Option<Range<usize>> {
        let prompt = self.chat.prompt(index).ok()?;
        let start = prompt.len();
        let done = self.turns.last().map_or(0, |turn| turn.end);
        if start >= limit || start < done || !prompt.begins(self.text, self.known) {
            return None;
        }
        let end = self.end(index, start, limit)?;
        if end <= start || end > limit || self.loses_reasoning(index, &self.text[start..end]) {
            return None;
        }
        Some(start..end)
    }

    /// True when the turn lacks the message's reasoning, which is learnt where the message is the last.
    fn loses_reasoning(&self, index: usize, turn: &str) -> bool {
        let message = &self.chat.messages[index];
        let answer = Answer::new(message);
        let has_tags = || match answer.inline {
            Some(inline) => inline.opened,
            None => reasoning::tags_of(self.chat.template).is_some(),
        };
        answer.reasoning.is_some_and(|reasoning| !holds(turn, reasoning)) && has_tags()
    }

    /// Where the turn ends. `None` also when it is not the one that the template writes where it is the last.
    fn end(&self, index: usize, start: usize, limit: usize) -> Option<usize> {
        let message = &self.chat.messages[index];
        let beginning = self.chat.beginning(index + 1).ok();
        let boundary = beginning.as_ref().and_then(|beginning| self.boundary(beginning, index, start));
        let Some(Boundary { byte: boundary, exact }) = boundary else {
            let end = self.first_stop_before_the_next_message(index, start, limit)?;
            let is_same = |beginning: &RenderedPrefix<'_>| beginning.same_bytes(self.text, self.known) >= end;
            return beginning.as_ref().is_none_or(is_same).then_some(end);
        };
        let turn = &self.text[start..boundary];
        if let Some(stop) = first_stop(self.tokenizer, turn) {
            return Some(start + stop.end);
        }
        let answer = texts(message).last().map(str::trim).unwrap_or_default();
        let trimmed = turn.trim_end();
        if !trimmed.ends_with(answer) || (answer.is_empty() && !trimmed.is_empty()) {
            return Some(start + trimmed.len());
        }
        // Nothing but white space follows the answer: the next control token may be what ends the turn.
        let rest = &self.text[boundary..];
        if let Some(next) = aliases(rest).next().filter(|alias| alias.start == 0) {
            let is_stop = self.tokenizer.stop_tokens().contains(&next.id);
            let behind = rest[next.end..].trim_start();
            let stands_alone = aliases(behind).next().is_some_and(|alias| alias.start == 0);
            if is_stop || (!exact && stands_alone) {
                return Some(boundary + next.end);
            }
        }
        Some(boundary)
    }

    /// Where the message ends in the text, by what the beginning of the conversation up to it looks like. A
    /// template may write something behind the last message only.
    fn boundary(&self, beginning: &RenderedPrefix<'_>, index: usize, start: usize) -> Option<Boundary> {
        if beginning.begins(self.text, self.known) {
            return (beginning.len() > start).then_some(Boundary { byte: beginning.len(), exact: true });
        }
        let same = beginning.same_bytes(self.text, self.known);
        let same = outside_alias(self.text, self.text.floor_char_boundary(same));
        let turn = self.text.get(start..same)?;
        let message = &self.chat.messages[index];
        let is_whole = texts(message).all(|part| {
            let part = reasoning::inline(part).map_or(part, |inline| inline.rest);
            holds(turn, part)
        });
        (is_whole && !turn.is_empty() && !calls_tools(message))
            .then_some(Boundary { byte: same, exact: false })
    }

    fn first_stop_before_the_next_message(&self, index: usize, start: usize, limit: usize) -> Option<usize> {
        let text = &self.text[start..limit];
        let stop = first_stop(self.tokenizer, text)?;
        let next = self.chat.messages.get(index + 1).filter(|message| !is_answer(message))?;
        let next = texts(next).next().map(str::trim).filter(|text| !text.is_empty())?;
        text[stop.end..].contains(next).then_some(start + stop.end)
    }
}

/// The whole from the last generation prompt on: as the template writes it where that continues the prompt,
/// else the prompt with what generation is to write behind it.
fn with_last_answer(
    chat: &Chat<'_>,
    prompt: &str,
    tokenizer: &Tokenizer,
    notices: &mut Vec<Notice>,
) -> Reasoned<String> {
    let whole = &chat.whole.text;
    let last = chat.messages.last().unwrap_or(&Value::Null);
    let answer = Answer::new(last);
    let opening = reasoning::opening(chat.template, prompt);
    if let Some(turn) = whole.strip_prefix(prompt) {
        if answer.reasoning.is_none_or(|reasoning| holds(turn, reasoning)) {
            return Ok(whole.clone());
        }
        let tags = match answer.inline {
            Some(inline) => inline.opened.then_some(inline.tags),
            None => reasoning::tags_of(chat.template),
        };
        let turn = turn.trim_start();
        return Ok(match tags {
            Some(tags) if opening.is_none() && turn.starts_with(answer.rest.trim()) => {
                notices.push(Notice::ReasoningRestored);
                let open = chat.template.with_controls(tags.open);
                [prompt, &open, &answer.reasoning_to_close(chat, tags), turn].concat()
            }
            _ => {
                notices.push(Notice::ReasoningNotLearnt);
                whole.clone()
            }
        });
    }
    if let Some(opening) = opening
        && let Some(body) = whole.strip_prefix(&prompt[..opening.start])
    {
        return Ok(behind_opening(chat, prompt, opening, body, &answer, notices));
    }
    if answer.inline.is_none() && answer.reasoning.is_some() {
        notices.push(Notice::ReasoningNotLearnt);
    }
    let content = texts(last).map(str::trim).collect::<Vec<_>>().join("\n");
    if content.is_empty() {
        return Err("the chat template does not begin tool calls as it asks for an answer".into());
    }
    let stop = tokenizer.stop_tokens();
    let written = aliases(whole).map(|alias| alias.id).filter(|id| stop.contains(id)).last();
    let end = ControlTokens::alias(written.unwrap_or(tokenizer.eos()));
    Ok([prompt, &content, &end].concat())
}

/// The answer behind a prompt that has opened reasoning, or closed it empty, where the template's whole has
/// `body` instead: its reasoning is what generation would write first.
fn behind_opening(
    chat: &Chat<'_>,
    prompt: &str,
    opening: Opening,
    body: &str,
    answer: &Answer<'_>,
    notices: &mut Vec<Notice>,
) -> String {
    let open = chat.template.with_controls(opening.tags.open);
    let close = chat.template.with_controls(opening.tags.close);
    let mut body = body.trim_start();
    if let Some(inside) = body.strip_prefix(&open) {
        if !opening.closed {
            return [prompt, inside.trim_start()].concat();
        }
        body = inside.split_once(&close).map_or(inside, |(_, rest)| rest).trim_start();
    }
    if opening.closed {
        if answer.reasoning.is_some() {
            notices.push(Notice::ReasoningNotLearnt);
        }
        return [prompt, body].concat();
    }
    if answer.reasoning.is_some_and(|reasoning| holds(body, reasoning)) {
        return [prompt, body].concat();
    }
    if answer.reasoning.is_none() {
        notices.push(Notice::EmptyReasoning);
    }
    let reasoning = answer.reasoning_to_close(chat, opening.tags);
    // The prompt has written the white space behind its tag.
    let written = &prompt[opening.start + open.len()..];
    let reasoning = match reasoning.strip_prefix(written) {
        Some(rest) if answer.reasoning.is_some() => rest,
        _ if answer.reasoning.is_some() => reasoning.trim_start(),
        _ => &reasoning,
    };
    [prompt, reasoning, body].concat()
}

/// The parts of the last answer.
struct Answer<'a> {
    inline: Option<Inline<'a>>,
    reasoning: Option<&'a str>,
    rest: &'a str,
}

impl<'a> Answer<'a> {
    fn new(message: &'a Value) -> Self {
        let content = message["content"].as_str().unwrap_or_default();
        let inline = reasoning::inline(content);
        let of_content = inline.map(|inline| inline.reasoning).filter(|text| !text.trim().is_empty());
        Self {
            inline,
            reasoning: reasoning::field(message).or(of_content),
            rest: inline.map_or(content, |inline| inline.rest),
        }
    }

    /// The reasoning behind its opening tag, up to the answer: as the row writes it, else as most models do.
    fn reasoning_to_close(&self, chat: &Chat<'_>, tags: reasoning::Tags) -> String {
        let close = chat.template.with_controls(tags.close);
        match self.inline {
            Some(Inline { reasoning, rest, .. }) => {
                let gap = &rest[..rest.len() - rest.trim_start().len()];
                [reasoning, &close, gap].concat()
            }
            None => match self.reasoning.map(str::trim) {
                Some(reasoning) => format!("\n{reasoning}\n{close}\n\n"),
                None => format!("\n{close}\n\n"),
            },
        }
    }
}
