//! Examples before evaluation rows: few-shot prompts.

use std::collections::HashSet;
use std::path::PathBuf;

use rand_chacha::rand_core::Rng;
use serde::Serialize;
use serde_json::{Map, Value};

use super::DataSettings;
use super::example::Example;
use super::message::is_system;
use super::order::stream;
use super::rows::RowReader;
use super::source::{Position, Record, Records, describe_files};
use crate::error::{Error, Reasoned, Result};
use crate::tokenizer::Tokenizer;

/// Rows drawn beyond those that are needed, where some may be left out.
const SPARE_ROWS: usize = 64;

/// What stands between two examples of a text.
const SEPARATOR: &str = "\n\n";

/// Bytes of a prompt that are enough to know the next example by.
const LONGEST_MARK: usize = 40;

/// Rows that are put before every row as examples of how to answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Shots {
    /// How many examples precede a row.
    count: usize,
    /// One more where there is one, to take the place of an example that is the row itself.
    rows: Vec<Map<String, Value>>,
}

impl Shots {
    /// Draws `count` rows of files, which are read as `settings` say, among the records at some positions where `among`
    /// names them; which, depends on the seed, the files and the positions alone.
    ///
    /// # Errors
    /// The files cannot be read, have fewer rows, or a drawn row is none that can be an example.
    pub fn draw(
        files: &[PathBuf],
        count: usize,
        seed: u64,
        settings: &DataSettings,
        tokenizer: &Tokenizer,
        among: Option<&HashSet<Position>>,
    ) -> Result<Self> {
        if count == 0 {
            return Ok(Self::default());
        }
        // Some more than are needed, where rows may be left out.
        let spare = if settings.skip_invalid { SPARE_ROWS } else { 0 };
        let drawn = draw_records(files, count + 1 + spare, seed, among)?;
        let mut rows = Vec::with_capacity(count + 1);
        for record in drawn {
            if rows.len() > count {
                break;
            }
            let fields = record.content.fields().and_then(|fields| {
                check(&read(&fields, settings, tokenizer)?)?;
                Ok(fields)
            });
            match fields {
                Ok(fields) => rows.push(fields),
                Err(_) if settings.skip_invalid => {}
                Err(reason) => return Err(record.position.error(files, reason)),
            }
        }
        if rows.len() < count {
            let reason =
                format!("has {} rows that can be examples, and `shots` asks for {count}", rows.len());
            return Err(Error::format(&describe_files(files), reason));
        }
        Ok(Self { count, rows })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The rows as examples.
    pub(super) fn examples(&self, settings: &DataSettings, tokenizer: &Tokenizer) -> Reasoned<Vec<Example>> {
        let example = |fields: &Map<String, Value>| {
            read(fields, settings, tokenizer)
                .map_err(|reason| format!("cannot have examples before it (`shots`): an example {reason}"))
        };
        self.rows.iter().map(example).collect()
    }

    /// An example of a data set with others before it: as text that precedes its prompt, or as earlier turns behind
    /// its own system message.
    pub(super) fn before(&self, example: Example, examples: &[Example]) -> Reasoned<Example> {
        if self.is_empty() {
            return Ok(example);
        }
        // A row that is an example itself would show its answer.
        let others: Vec<&Example> =
            examples.iter().filter(|other| **other != example).take(self.count).collect();
        let kind = std::mem::discriminant::<Example>;
        if others.iter().any(|other| kind(other) != kind(&example)) {
            return Err(
                "cannot have examples before it (`shots`): the training rows are of another kind".into()
            );
        }
        match example {
            Example::Completion { prompt, completion } => {
                let prompt = others.into_iter().rev().fold(prompt, |behind, other| match other {
                    Example::Completion { prompt, completion } => {
                        format!("{prompt}{}{SEPARATOR}{behind}", completion.trim_end())
                    }
                    _ => behind,
                });
                Ok(Example::Completion { prompt, completion })
            }
            Example::Messages(mut conversation) => {
                let own = leading(&conversation.messages);
                let mut turns = Vec::new();
                for other in others {
                    if let Example::Messages(other) = other {
                        turns.extend_from_slice(&other.messages[leading(&other.messages)..]);
                    }
                }
                let added = turns.len();
                conversation.messages.splice(own..own, turns);
                conversation.learnt.splice(own..own, std::iter::repeat_n(false, added));
                Ok(Example::Messages(conversation))
            }
            Example::Text { .. } => {
                Err("is `text`, which cannot have examples before it: set shots = 0".into())
            }
        }
    }

    /// What a model would begin its next example with, where examples are text: there its answer ends. It is what
    /// stands between examples, with the words that all their prompts begin with. None where an answer of theirs has
    /// this itself.
    pub fn end(&self, settings: &DataSettings, tokenizer: &Tokenizer) -> Option<String> {
        let completion = |fields: &Map<String, Value>| match read(fields, settings, tokenizer).ok()? {
            Example::Completion { prompt, completion } => Some((prompt, completion)),
            _ => None,
        };
        let examples: Option<Vec<(String, String)>> = self.rows.iter().map(completion).collect();
        let examples = examples.filter(|examples| !examples.is_empty() && !self.is_empty())?;
        let first = &examples[0].0;
        let common = examples.iter().fold(first.len(), |length, (prompt, _)| {
            let same = first.bytes().zip(prompt.bytes()).take_while(|(left, right)| left == right).count();
            length.min(same)
        });
        let line = first[..first.floor_char_boundary(common)].lines().next().unwrap_or_default();
        // Whole words: the examples may begin alike by chance.
        let words = &first[..first.floor_char_boundary(line.len().min(LONGEST_MARK))];
        let end = match first[words.len()..].starts_with(char::is_whitespace) && words.len() < common {
            true => words.len(),
            false => words.rfind(char::is_whitespace).unwrap_or(0),
        };
        let mark = format!("{SEPARATOR}{}", words[..end].trim_end());
        (!examples.iter().any(|(_, completion)| completion.trim_end().contains(&mark))).then_some(mark)
    }
}

/// A row of a file as an example.
fn read(fields: &Map<String, Value>, settings: &DataSettings, tokenizer: &Tokenizer) -> Reasoned<Example> {
    let reader = RowReader::new(fields, settings, tokenizer.has_chat_template())?;
    reader.example(fields.clone(), &mut Vec::new())
}

/// Messages before the first turn: what a system says.
fn leading(messages: &[Value]) -> usize {
    messages.iter().take_while(|message| is_system(message)).count()
}

/// Whether a row can be an example.
fn check(example: &Example) -> Reasoned<()> {
    match example {
        Example::Text { .. } => Err("is `text`, which cannot be an example: set shots = 0".into()),
        Example::Messages(conversation) if !conversation.tools.is_null() => {
            Err("has `tools`, and cannot be an example for others: set shots = 0".into())
        }
        _ => Ok(()),
    }
}

/// So many records, each as likely as any other, in the order that the draw gives.
fn draw_records(
    files: &[PathBuf],
    count: usize,
    seed: u64,
    among: Option<&HashSet<Position>>,
) -> Result<Vec<Record>> {
    let mut random = stream(seed, "shots", 0, 0);
    let mut records = Records::new(files);
    // Every record has a random key; those with the least are drawn.
    let mut drawn: Vec<(u64, Record)> = Vec::new();
    loop {
        let block = records.next_block()?;
        if block.is_empty() {
            break;
        }
        for record in block {
            let key = random.next_u64();
            if among.is_some_and(|among| !among.contains(&record.position)) {
                continue;
            }
            if drawn.len() < count || drawn.last().is_some_and(|(last, _)| key < *last) {
                let at = drawn.partition_point(|(other, _)| *other <= key);
                drawn.insert(at, (key, record));
                drawn.truncate(count);
            }
        }
    }
    Ok(drawn.into_iter().map(|(_, record)| record).collect())
}
