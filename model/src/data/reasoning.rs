//! Reasoning that precedes an answer: where it stands in a message, and where a generation prompt opens it.

use serde_json::Value;

use crate::chat_template::ChatTemplate;

/// Between which strings models write their reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tags {
    pub open: &'static str,
    pub close: &'static str,
}

const TAGS: [Tags; 9] = [
    Tags { open: "<think>", close: "</think>" },
    Tags { open: "<thinking>", close: "</thinking>" },
    Tags { open: "<thought>", close: "</thought>" },
    Tags { open: "<reasoning>", close: "</reasoning>" },
    Tags { open: "<seed:think>", close: "</seed:think>" },
    Tags { open: "[THINK]", close: "[/THINK]" },
    Tags { open: "◁think▷", close: "◁/think▷" },
    Tags { open: "<|begin_of_thought|>", close: "<|end_of_thought|>" },
    Tags { open: "<|START_THINKING|>", close: "<|END_THINKING|>" },
];

/// A content that begins with reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inline<'a> {
    pub tags: Tags,
    /// True when the opening tag is there too; without it the generation prompt wrote it.
    pub opened: bool,
    /// What stands between the tags.
    pub reasoning: &'a str,
    /// What follows the closing tag.
    pub rest: &'a str,
}

/// Takes the reasoning at a content's beginning from the rest.
pub(super) fn inline(content: &str) -> Option<Inline<'_>> {
    let trimmed = content.trim_start();
    TAGS.iter().find_map(|&tags| {
        let after = trimmed.strip_prefix(tags.open);
        let (reasoning, rest) = after.unwrap_or(trimmed).split_once(tags.close)?;
        // A closing tag alone is the end of reasoning only before any other opening one.
        let alone = after.is_none() && (reasoning.contains(tags.open) || rest.contains(tags.close));
        (!alone).then_some(Inline { tags, opened: after.is_some(), reasoning, rest })
    })
}

/// The reasoning of a message in a field of its own.
pub(super) fn field(message: &Value) -> Option<&str> {
    message["reasoning_content"].as_str().filter(|text| !text.trim().is_empty())
}

/// The tags that a template's source names.
pub(super) fn tags_of(template: &ChatTemplate) -> Option<Tags> {
    TAGS.into_iter().find(|tags| template.writes(tags.close))
}

/// A reasoning that the end of a generation prompt has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    pub tags: Tags,
    /// Byte of the prompt at which the opening tag begins.
    pub start: usize,
    /// True when the prompt closes it as well, with nothing in it.
    pub closed: bool,
}

/// What a generation prompt ends with, if that is an opening tag or an empty reasoning.
pub(super) fn opening(template: &ChatTemplate, prompt: &str) -> Option<Opening> {
    TAGS.into_iter().find_map(|tags| {
        let open = template.with_controls(tags.open);
        let close = template.with_controls(tags.close);
        let start = prompt.rfind(&open)?;
        let tail = prompt[start + open.len()..].trim();
        let closed = tail == close;
        (closed || tail.is_empty()).then_some(Opening { tags, start, closed })
    })
}
