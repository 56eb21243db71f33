//! Conversations to rows of tokens: which tokens of the rendered text are learnt.

use std::ops::Range;

use super::message::is_answer;
use super::message_forms::Chat;
use super::messages::Conversation;
use super::notice::Notice;
use super::tokenize::{Row, RowMaker};
use super::{Position, omissions, turns};
use crate::chat_template::ChatTemplate;
use crate::control_tokens::aliases;
use crate::error::Reasoned;
use crate::recipe::Learn;

/// Bytes before a turn that decide how its beginning is tokenized: more than the longest tokens have.
const LOOKBACK: usize = 512;

/// Most rows of one conversation: each takes a rendering of it.
const MOST_ROWS: usize = 64;

impl RowMaker<'_> {
    /// A conversation is rendered once, whole. Where the template marks what the assistant writes, that is
    /// learnt. Else every assistant turn is, from where generation would begin (the messages before it
    /// rendered with a generation prompt) to what ends the turn. The last answer is the one behind its generation
    /// prompt, also where that does not begin the whole.
    ///
    /// A turn that the template writes otherwise once others follow it (its reasoning is cut, say) is context in the
    /// whole. It is learnt in a row of its own, in which it is the last, with the turns before it that this
    /// row has as they would be generated.
    pub(super) fn conversation(
        &self,
        position: Position,
        conversation: &Conversation,
        notices: &mut Vec<Notice>,
    ) -> Reasoned<Vec<Row>> {
        let templates = self.templates.ok_or("needs a chat template")?;
        let template = templates.choose(conversation.template.as_deref(), &conversation.tools)?;
        let (row, mut changed) = self.rendered(position, template, conversation, notices)?;
        let mut rows = vec![row];
        let mut noticed = Vec::new();
        while !changed.is_empty() {
            let part = conversation.up_to(&changed);
            if rows.len() == MOST_ROWS {
                noticed.push(Notice::TooManyRows(MOST_ROWS));
                break;
            }
            match self.rendered(position, template, &part, &mut noticed) {
                Ok((row, still_changed)) => {
                    rows.push(row);
                    changed = still_changed;
                }
                // The template refuses a conversation that ends there.
                Err(_) => {
                    noticed.push(Notice::ContextOnly);
                    changed.pop();
                }
            }
        }
        if rows.len() > 1 {
            noticed.push(Notice::Expanded);
        }
        for notice in noticed {
            if !notices.contains(&notice) {
                notices.push(notice);
            }
        }
        Ok(rows)
    }

    /// The row of a conversation, and the messages that are to be learnt and are not as they would be generated.
    fn rendered(
        &self,
        position: Position,
        template: &ChatTemplate,
        conversation: &Conversation,
        notices: &mut Vec<Notice>,
    ) -> Reasoned<(Row, Vec<usize>)> {
        let mut row = Row::new(position);
        let chat = Chat::new(template, conversation, notices)?;
        let is_marked = chat.whole.generation.iter().any(|part| !part.is_empty());
        let without = |changed: &[usize]| -> Vec<bool> {
            let flags = conversation.learnt.iter().enumerate();
            flags.map(|(index, &learnt)| learnt && !changed.contains(&index)).collect()
        };
        let last = chat.messages.len() - 1;
        let changed = if is_marked {
            let changed = changed_parts(&chat, &conversation.learnt);
            let learnt = without(&changed);
            omissions::notice(&chat, conversation, &learnt, last + 1, notices);
            self.push_generation_parts(&mut row, &chat, &learnt, notices)?;
            changed
        } else if self.learn == Learn::Template {
            return Err(
                "is learnt by task.learn = \"template\", and the chat template marks nothing of it with \
                        `generation`: use learn = \"all\" or \"last\""
                    .into(),
            );
        } else {
            let found = turns::find(&chat, conversation, self.tokenizer, notices)?;
            omissions::notice(&chat, conversation, &without(&found.changed), last, notices);
            self.push_turns(&mut row, &found.text, &found.turns)?;
            if found.needs_eos {
                row.push(&[self.tokenizer.eos()], true);
            }
            found.changed
        };
        Ok((row.checked()?, changed))
    }

    /// Pushes the text up to the last turn's end. The ids are those of the text as a whole, but where a token
    /// would reach over the beginning of a turn, or the ids before it would be others than generation sees:
    /// there the text is tokenized apart.
    fn push_turns(&self, row: &mut Row, text: &str, turns: &[Range<usize>]) -> Reasoned<()> {
        let end = turns.last().map_or(0, |turn| turn.end);
        let whole = self.tokenizer.aliased_ids_with_bytes(&text[..end])?;
        let mut cuts = vec![0];
        for turn in turns {
            let cut = cuts[cuts.len() - 1];
            let known = if cut == 0 { whole.as_slice() } else { &[] };
            if !self.continues(text, cut, turn, known)? {
                cuts.push(turn.start);
            }
        }
        if let [_] = cuts[..] {
            push_piece(row, whole, turns);
            return Ok(());
        }
        cuts.push(end);
        for piece in cuts.windows(2) {
            let part = &text[piece[0]..piece[1]];
            let mut ids = match piece[0] {
                0 => self.tokenizer.aliased_ids_with_bytes(part)?,
                _ => self.tokenizer.ids_within_with_bytes(part)?,
            };
            for (_, bytes) in &mut ids {
                *bytes = piece[0] + bytes.start..piece[0] + bytes.end;
            }
            push_piece(row, ids, turns);
        }
        Ok(())
    }

    /// True when the text tokenized up to a turn's beginning is the beginning of it tokenized further. Tokens
    /// never reach over a control token, so it is enough to look from the one before to the one behind; where
    /// there is none, a few hundred bytes back are. `known` is the text's ids, or nothing.
    fn continues(
        &self,
        text: &str,
        cut: usize,
        turn: &Range<usize>,
        known: &[(u32, Range<usize>)],
    ) -> Reasoned<bool> {
        let nearby = word_before(text, cut, turn.start);
        let alias = aliases(&text[nearby..turn.start]).last();
        let from = alias.map_or(nearby, |alias| nearby + alias.start);
        let before = self.tokenizer.aliased_ids(&text[from..turn.start])?;
        if alias.is_some() && !known.is_empty() {
            // What follows a control token has the same ids whatever precedes that.
            let behind = &known[known.partition_point(|(_, bytes)| bytes.end <= from)..];
            let mut behind = behind.iter().map(|(id, _)| id);
            return Ok(before.iter().all(|id| behind.next() == Some(id)));
        }
        let behind = aliases(&text[turn.start..turn.end]).next();
        let to = behind.map_or(turn.end, |alias| turn.start + alias.end);
        let together = self.tokenizer.aliased_ids(&text[from..to])?;
        Ok(together.starts_with(&before))
    }

    /// The tokens that the template marks as the assistant's: every one that has a byte of a marked part.
    fn push_generation_parts(
        &self,
        row: &mut Row,
        chat: &Chat<'_>,
        learnt: &[bool],
        notices: &mut Vec<Notice>,
    ) -> Reasoned<()> {
        let text = &chat.whole.text;
        let parts = learnt_parts(chat, learnt)?;
        let Some(last_part) = parts.last() else {
            return Err("has no supervised token: the template marks none of the answers to be learnt".into());
        };
        if parts.len() < learnt.iter().filter(|&&learnt| learnt).count() {
            notices.push(Notice::ContextOnly);
        }
        let last_prompt = chat.prompt(chat.messages.len() - 1).ok().map(|prompt| prompt.text());
        let last_prompt =
            last_prompt.filter(|prompt| text.starts_with(prompt.as_str()) && prompt.len() < last_part.end);
        let prompt = last_prompt.as_deref().unwrap_or(&text[..last_part.start]);
        let mut open_parts = parts.iter().peekable();
        for (id, bytes) in self.tokenizer.aliased_ids_with_bytes(text)? {
            while open_parts.next_if(|part| part.end <= bytes.start).is_some() {}
            let Some(part) = open_parts.peek() else { break };
            if bytes.end <= prompt.len() {
                row.prompt_length = row.tokens.len() + 1;
            }
            row.push(&[id], bytes.end > part.start);
        }
        // The prompt's last token may take white space of the answer (`rstrip`).
        let prompt_ids = self.tokenizer.aliased_ids(prompt)?;
        if row.tokens.starts_with(&prompt_ids) {
            row.prompt_length = prompt_ids.len();
        }
        let stops = |id: &u32| self.tokenizer.stop_tokens().contains(id) || self.tokenizer.is_added(*id);
        if !row.tokens.last().is_some_and(stops) {
            notices.push(Notice::UnmarkedEnd);
        }
        Ok(())
    }
}

/// Pushes a piece of the text, as ids with their bytes in the text.
fn push_piece(row: &mut Row, ids: Vec<(u32, Range<usize>)>, turns: &[Range<usize>]) {
    let last_start = turns.last().map_or(0, |turn| turn.start);
    let mut turns = turns.iter().peekable();
    for (id, bytes) in ids {
        while turns.next_if(|turn| turn.end <= bytes.start).is_some() {}
        // A token that begins before a turn belongs to the prompt, though it takes the white space
        // behind it (`rstrip`): `continues` has shown that generation sees it.
        let supervised = turns.peek().is_some_and(|turn| bytes.start >= turn.start);
        if bytes.start < last_start {
            row.prompt_length = row.tokens.len() + 1;
        }
        row.push(&[id], supervised);
    }
}

/// The last byte at least [`LOOKBACK`] before `end`, and not before `start`, at which white space follows
/// something else: tokens hardly ever reach over such a place. `start` where there is none.
fn word_before(text: &str, start: usize, end: usize) -> usize {
    let near = text.floor_char_boundary(end.saturating_sub(LOOKBACK));
    let Some(before) = text.get(start..near) else { return start };
    let mut following = false;
    for (position, character) in before.char_indices().rev() {
        if following && !character.is_whitespace() {
            return start + position + character.len_utf8();
        }
        following = character.is_whitespace();
    }
    start
}

/// The answers whose marked parts the template writes otherwise where no message follows them. Which part is of which
/// answer shows only where each has one.
fn changed_parts(chat: &Chat<'_>, learnt: &[bool]) -> Vec<usize> {
    let (whole, parts) = (&chat.whole.text, &chat.whole.generation);
    let answers: Vec<usize> = (0..chat.messages.len()).filter(|&i| is_answer(&chat.messages[i])).collect();
    let last = chat.messages.len() - 1;
    if parts.len() != answers.len() {
        return Vec::new();
    }
    let is_changed = |&(&index, part): &(&usize, &Range<usize>)| {
        let beginning = chat.beginning(index + 1);
        beginning.is_ok_and(|beginning| beginning.same_bytes(whole, whole.len()) < part.end)
    };
    let earlier = answers.iter().zip(parts).filter(|&(&index, _)| index < last && learnt[index]);
    earlier.filter(is_changed).map(|(&index, _)| index).collect()
}

/// The marked parts, without those of answers that are not to be learnt.
fn learnt_parts(chat: &Chat<'_>, learnt: &[bool]) -> Reasoned<Vec<Range<usize>>> {
    let mut parts = chat.whole.generation.clone();
    let answers: Vec<usize> = (0..chat.messages.len()).filter(|&i| is_answer(&chat.messages[i])).collect();
    if parts.len() == answers.len() {
        let mut flags = answers.iter().map(|&index| learnt[index]);
        parts.retain(|_| flags.next().unwrap_or(true));
    } else {
        for &index in answers.iter().filter(|&&index| !learnt[index]) {
            let beginnings = [chat.beginning(index)?, chat.beginning(index + 1)?];
            let whole = &chat.whole.text;
            if !beginnings.iter().all(|beginning| beginning.begins(whole, whole.len())) {
                return Err(format!(
                    "message {} is not to be learnt, and the template does not show where it ends: remove its \
                     weight, or task.learn",
                    index + 1
                ));
            }
            parts.retain(|part| part.start < beginnings[0].len() || part.start >= beginnings[1].len());
        }
    }
    parts.retain(|part| !part.is_empty());
    Ok(parts)
}
