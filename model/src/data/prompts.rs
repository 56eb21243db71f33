//! Prompts: what a model is given to continue or to answer, from texts, messages and the rows of files.
//!
//! The ids of a row's prompt are those before the answer when the row is learnt.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::example::Example;
use super::fields::{found, text_field};
use super::message::is_system;
use super::message_forms::Chat;
use super::messages::{Conversation, Extras, MessageFields, read_unanswered};
use super::notice::{Notice, Notices};
use super::rows::RowReader;
use super::source::{Record, Records};
use super::tokenize::RowMaker;
use super::{DataSettings, Position, Unit, omissions};
use crate::chat_template::ChatTemplates;
use crate::error::{Error, Reasoned, Result};
use crate::files::read_input_text;
use crate::recipe::SpecialTokens;
use crate::tokenizer::Tokenizer;

/// Fields that hold a list of messages.
const MESSAGES: [&str; 3] = ["messages", "conversations", "conversation"];

/// How prompts are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptSettings {
    /// Whether texts are the message of a user, which the chat template writes, instead of what is continued.
    pub chat: bool,
    /// The system message of conversations that have none.
    pub system: Option<String>,
}

/// What a model is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// As text: what was given, or the messages as the chat template writes them.
    pub text: String,
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether the chat template wrote it: an answer in a conversation is to follow.
    pub is_chat: bool,
}

/// The prompt of a file's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePrompt {
    /// Where it stands.
    pub position: Position,
    /// What the model is given.
    pub prompt: Prompt,
}

/// Makes prompts for a model.
pub struct PromptMaker<'a> {
    tokenizer: &'a Tokenizer,
    settings: PromptSettings,
    /// Why there is none, else.
    templates: Reasoned<ChatTemplates>,
}

impl<'a> PromptMaker<'a> {
    /// Makes prompts as the settings say.
    ///
    /// # Errors
    /// Texts are to be messages and the folder has no chat template, or none that can be used.
    pub fn new(tokenizer: &'a Tokenizer, settings: PromptSettings) -> Result<Self> {
        if settings.chat && !tokenizer.has_chat_template() {
            let reason = "needs a chat template, and the model folder has none: leave it out to have texts \
                          continued as they are, or add chat_template.jinja to the folder";
            return Err(Error::setting("--chat", reason));
        }
        let templates = match tokenizer.has_chat_template() {
            // Texts are continued without templates, whatever is wrong with them.
            true if !settings.chat => tokenizer.chat_templates().map_err(|error| error.to_string()),
            true => Ok(tokenizer.chat_templates()?),
            false => {
                Err("is a conversation, which needs a chat template, and the model folder has none: add \
                          chat_template.jinja to it"
                    .to_owned())
            }
        };
        Ok(Self { tokenizer, settings, templates })
    }

    /// The prompt of a text; `notices` gets what its owner might not expect.
    ///
    /// # Errors
    /// The text is empty or cannot be tokenized, or the chat template refuses it.
    pub fn of_text(&self, text: &str, notices: &mut Vec<Notice>) -> std::result::Result<Prompt, String> {
        if text.is_empty() {
            return Err("is empty: there is nothing to continue or to answer".into());
        }
        match self.settings.chat {
            true => self.of_messages(vec![json!({"role": "user", "content": text})], notices),
            false => self.of_marked(text),
        }
    }

    /// The prompt of a conversation that ends before an answer.
    ///
    /// # Errors
    /// As [`Self::of_text`]; a message has no role or content.
    pub fn of_messages(
        &self,
        messages: Vec<Value>,
        notices: &mut Vec<Notice>,
    ) -> std::result::Result<Prompt, String> {
        self.of_conversation(Conversation::unanswered(messages, Extras::default())?, notices)
    }

    /// The token with which the chat template ends an answer, where that is a token of its own. Folders do not always
    /// list it among those at which generation ends.
    pub fn end_of_turn(&self) -> Option<u32> {
        let message = |role: &str| json!({"role": role, "content": "x"});
        let messages = vec![message("user"), message("assistant")];
        let conversation = Conversation::new(messages, 0, Extras::default(), &mut Vec::new()).ok()?;
        let maker = RowMaker::new(self.tokenizer, self.templates.as_ref().ok(), &DataSettings::default());
        let position = Position { file: 0, unit: Unit::Row, number: 1 };
        let rows = maker.rows(position, &Example::Messages(conversation), &mut Vec::new()).ok()?;
        let last = *rows.first()?.tokens.last()?;
        self.tokenizer.is_added(last).then_some(last)
    }

    /// The prompts of a file, and what a person should know about them, a line each. The lines of a file whose name
    /// ends in `.txt` are texts; other files have rows with `prompt` or `messages`, or of the formats that are learnt
    /// from, whose answer is left out.
    ///
    /// # Errors
    /// The file cannot be read, has no prompt, or has one that cannot be used.
    pub fn read(&self, path: &Path) -> Result<(Vec<FilePrompt>, Vec<String>)> {
        let is_text = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
        let files = [path.to_owned()];
        let mut notices = Notices::default();
        let prompts = match is_text {
            true => self.read_lines(&files, &mut notices)?,
            false => self.read_records(&files, &mut notices)?,
        };
        if prompts.is_empty() {
            return Err(Error::format(path, "is empty: give at least one prompt"));
        }
        Ok((prompts, notices.finish().iter().map(|notice| notice.describe(&files)).collect()))
    }

    /// Lines without text are no prompts.
    fn read_lines(&self, files: &[PathBuf; 1], notices: &mut Notices) -> Result<Vec<FilePrompt>> {
        let text = read_input_text(&files[0])?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines: Vec<(usize, &str)> =
            (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).collect();
        let make = |&(number, line): &(usize, &str)| {
            let position = Position { file: 0, unit: Unit::Line, number };
            self.made(files, position, |noticed| self.of_text(line, noticed))
        };
        gather(lines.par_iter().map(make).collect(), notices)
    }

    fn read_records(&self, files: &[PathBuf; 1], notices: &mut Notices) -> Result<Vec<FilePrompt>> {
        let mut records = Records::new(files);
        let mut prompts = Vec::new();
        loop {
            let block = records.next_block()?;
            if block.is_empty() {
                return Ok(prompts);
            }
            let make = |record: &Record| {
                self.made(files, record.position, |noticed| {
                    record.content.fields().and_then(|fields| self.of_row(fields, noticed))
                })
            };
            prompts.extend(gather(block.par_iter().map(make).collect(), notices)?);
        }
    }

    fn made(
        &self,
        files: &[PathBuf],
        position: Position,
        make: impl FnOnce(&mut Vec<Notice>) -> Reasoned<Prompt>,
    ) -> Result<(FilePrompt, Vec<Notice>)> {
        let mut noticed = Vec::new();
        let prompt = make(&mut noticed).map_err(|reason| position.error(files, reason))?;
        Ok((FilePrompt { position, prompt }, noticed))
    }

    /// The prompt of a row by its fields.
    fn of_row(&self, mut row: Map<String, Value>, notices: &mut Vec<Notice>) -> Reasoned<Prompt> {
        let list = MESSAGES.into_iter().find(|field| row.contains_key(*field));
        let list = list.or_else(|| row.get("prompt").is_some_and(Value::is_array).then_some("prompt"));
        if let Some(field) = list {
            let fields = MessageFields {
                messages: field.to_owned(),
                system: Some("system".to_owned()),
                tools: Some("tools".to_owned()),
                named: false,
            };
            return self.of_conversation(read_unanswered(row, &fields, notices)?, notices);
        }
        if !row.contains_key("prompt") {
            return self.of_learnt_row(row, notices);
        }
        let text = text_field(&row, "prompt")?.to_owned();
        let system = match row.get("system") {
            None | Some(Value::Null) => String::new(),
            Some(_) => text_field(&row, "system")?.to_owned(),
        };
        if !self.settings.chat {
            return match system.is_empty() {
                true => self.of_text(&text, notices),
                false => {
                    Err("has a `system`, for which a text that is continued has no place: use --chat".into())
                }
            };
        }
        if text.is_empty() {
            return self.of_text(&text, notices);
        }
        let mut messages = Vec::new();
        if !system.is_empty() {
            messages.push(json!({"role": "system", "content": system}));
        }
        messages.push(json!({"role": "user", "content": text}));
        let extras = Extras::take(&mut row, Some("tools"), notices)?;
        self.of_conversation(Conversation::unanswered(messages, extras)?, notices)
    }

    /// The prompt of a row with its answer, as it is learnt.
    fn of_learnt_row(&self, row: Map<String, Value>, notices: &mut Vec<Notice>) -> Reasoned<Prompt> {
        let settings = DataSettings { chat: self.settings.chat.then_some(true), ..DataSettings::default() };
        let reader = RowReader::new(&row, &settings, self.tokenizer.has_chat_template()).map_err(|_| {
            format!(
                "has neither `prompt` nor `messages`, and is no question with its answer (found {})",
                found(&row)
            )
        })?;
        match reader.example(row, notices)? {
            Example::Completion { prompt, .. } => self.of_marked(&prompt),
            Example::Messages(conversation) => self.of_conversation(conversation, notices),
            Example::Text { .. } => Err("is a `text`, which has no prompt: name the field `prompt`".into()),
        }
    }

    /// Control strings in a text that is continued are the tokens they stand for.
    fn of_marked(&self, text: &str) -> Reasoned<Prompt> {
        let marked = self.tokenizer.marked(text, SpecialTokens::Parse)?;
        let ids = self.tokenizer.prompt_ids(&marked)?;
        Ok(Prompt { text: text.to_owned(), ids, is_chat: false })
    }

    fn of_conversation(&self, conversation: Conversation, notices: &mut Vec<Notice>) -> Reasoned<Prompt> {
        let mut conversation = conversation.without_last_answers();
        if let Some(system) = &self.settings.system
            && !conversation.messages.first().is_some_and(is_system)
        {
            conversation.messages.insert(0, json!({"role": "system", "content": system}));
            conversation.learnt.insert(0, false);
        }
        if conversation.messages.iter().all(is_system) {
            return Err("has no message to answer".into());
        }
        let templates = self.templates.as_ref().map_err(String::clone)?;
        let template = templates.choose(conversation.template.as_deref(), &conversation.tools)?;
        let chat = Chat::new(template, &conversation, notices)?;
        let count = chat.messages.len();
        omissions::notice(&chat, &conversation, &conversation.learnt, 0, notices);
        let text = chat.prompt(count)?.text();
        let ids = self.tokenizer.aliased_ids(&text)?;
        if ids.is_empty() {
            return Err("is a conversation of which the chat template writes nothing".into());
        }
        Ok(Prompt { text: self.tokenizer.decode_with_control_tokens(&ids), ids, is_chat: true })
    }
}

/// The prompts, or what is wrong with the first that cannot be used.
fn gather(made: Vec<Result<(FilePrompt, Vec<Notice>)>>, notices: &mut Notices) -> Result<Vec<FilePrompt>> {
    let mut prompts = Vec::with_capacity(made.len());
    for made in made {
        let (prompt, noticed) = made?;
        notices.add(prompt.position, noticed);
        prompts.push(prompt);
    }
    Ok(prompts)
}
