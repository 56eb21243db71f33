//! What `inspect` prints.

use std::fmt::Write;

use cpift_model::DeltaNet;
use cpift_model::inspection::{ChatSample, Inspection, LayersWith};
use cpift_model::table::Table;

use super::style::Style;
use super::table::aligned;
use super::units::{bytes, counted, grouped, percent};

/// The inspection as text.
pub fn render(inspection: &Inspection, style: Style) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{} {value}", style.bold(format!("{name:<10}")));
    };
    line("model", super::path_from_here(&inspection.folder));
    line("family", format!("{} ({})", inspection.family, inspection.class));
    line("parameters", grouped(inspection.total_parameters()));
    line(
        "layers",
        format!(
            "{} of width {}, {} query heads and {} key/value heads of {}, MLP {}",
            inspection.layers,
            inspection.hidden,
            inspection.heads,
            inspection.kv_heads,
            inspection.head_dim,
            inspection.intermediate
        ),
    );
    if let Some(sizes) = &inspection.delta_net {
        let DeltaNet { key_heads, value_heads, key_dim, value_dim, taps } = sizes;
        line(
            "DeltaNet",
            format!(
                "{key_heads} query and key heads of {key_dim}, {value_heads} value heads of {value_dim}, \
                 convolution over {taps} tokens"
            ),
        );
    }
    line("context", format!("{} tokens", grouped(inspection.max_positions as u64)));
    line("rotary", by_layers(&inspection.rotary, inspection.layers));
    if !inspection.windows.is_empty() {
        line("windows", by_layers(&inspection.windows, inspection.layers));
    }
    line("weights", weights(inspection));
    line("vocabulary", vocabulary(inspection));
    line("tokens", tokens(inspection));
    if !inspection.ignored_fields.is_empty() {
        line("not read", inspection.ignored_fields.join(", "));
    }
    line("template", template(inspection));
    if let Some(ChatSample::Prompt(prompt)) = &inspection.chat {
        prompt.lines().for_each(|prompt| text.push_str(&format!("  {}\n", style.dim(prompt))));
    }
    text.push('\n');
    text.push_str(&aligned(&parameters(inspection)));
    text.push('\n');
    text.push_str(&aligned(&memory(inspection)));
    text
}

/// What layers have, with their number where not all have the same.
fn by_layers(groups: &[LayersWith], layers: usize) -> String {
    let describe = |group: &LayersWith| match group.layers == layers {
        true => group.what.clone(),
        false if group.layers == 1 => format!("{} in one layer", group.what),
        false => format!("{} in {} layers", group.what, group.layers),
    };
    groups.iter().map(describe).collect::<Vec<_>>().join("; ")
}

fn weights(inspection: &Inspection) -> String {
    let of_type = inspection.stored.iter().map(|stored| {
        let tensors = counted(stored.tensors as u64, "tensor");
        format!("{tensors} in {}, {}", stored.dtype, bytes(stored.bytes))
    });
    let files = counted(inspection.files as u64, "file");
    format!("{} in {files}", of_type.collect::<Vec<_>>().join("; "))
}

fn vocabulary(inspection: &Inspection) -> String {
    let rows = grouped(inspection.vocabulary as u64);
    match inspection.vocabulary.saturating_sub(inspection.tokens) {
        0 => format!("{rows} tokens"),
        padding => format!(
            "{rows} rows for {} tokens, {} of padding",
            grouped(inspection.tokens as u64),
            grouped(padding as u64)
        ),
    }
}

fn tokens(inspection: &Inspection) -> String {
    let special = inspection.special_tokens.iter().map(|token| match token.id {
        Some(id) => format!("{} {} ({id})", token.name, token.text),
        None => format!("{} {} (no token)", token.name, token.text),
    });
    let stop: Vec<String> = inspection.stop_tokens.iter().map(u32::to_string).collect();
    special.chain([format!("generation stops at {}", stop.join(", "))]).collect::<Vec<_>>().join("; ")
}

fn template(inspection: &Inspection) -> String {
    match &inspection.chat {
        None => "none: rows of messages need one (chat_template.jinja in the folder)".to_owned(),
        Some(ChatSample::Unusable(reason)) => format!("cannot be used: {reason}"),
        Some(ChatSample::Prompt(_)) => "the prompt of a user's `Hello!`:".to_owned(),
    }
}

fn parameters(inspection: &Inspection) -> Table {
    let total = inspection.total_parameters() as f64;
    let mut table = Table::new(["part", "parameters", "share"]);
    for part in &inspection.parameters {
        let share = percent(part.parameters as f64 / total);
        table.row([part.part.to_owned(), grouped(part.parameters), share]);
    }
    table
}

fn memory(inspection: &Inspection) -> Table {
    let step = format!("a step of {} tokens", grouped(inspection.memory_tokens as u64));
    let mut table =
        Table::new([step.as_str(), "memory", "recompute", "state", "activations", "together", "on the host"]);
    for line in &inspection.memory {
        table.row([
            line.precision.to_owned(),
            line.memory.name().to_owned(),
            line.recompute.name().to_owned(),
            bytes(line.state_bytes),
            bytes(line.activation_bytes),
            bytes(line.state_bytes + line.activation_bytes),
            if line.host_bytes > 0 { bytes(line.host_bytes) } else { String::new() },
        ]);
    }
    table
}
