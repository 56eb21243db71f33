//! A document as one HTML page that needs nothing else: no network, no scripts. It is well-formed XML too, so
//! that programs can read it.

use std::fmt::Write;

use super::chart::STYLE;
use super::document::{Block, Document, Figure, Section, Table};
use super::escape;

const PAGE_STYLE: &str = include_str!("page.css");

/// The page.
pub fn render(document: &Document) -> String {
    let title = escape(&document.title);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n<p class=\"lead\">{}</p>\n<nav>",
        escape(&document.lead)
    );
    for section in &document.sections {
        let _ = write!(page, "<a href=\"#{}\">{}</a>", section.id, escape(section.title));
    }
    page.push_str("</nav>\n");
    for section in &document.sections {
        push_section(&mut page, section);
    }
    let _ = write!(
        page,
        "<footer>Made by cpift-engine {} with <code>cpift-engine report</code>.</footer>\n\
         </main>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    page
}

fn push_section(page: &mut String, section: &Section) {
    let _ = writeln!(page, "<section>\n<h2 id=\"{}\">{}</h2>", section.id, escape(section.title));
    for block in &section.blocks {
        match block {
            Block::Text(text) => {
                let _ = writeln!(page, "<p>{}</p>", escape(text));
            }
            Block::Notice(text) => {
                let _ = writeln!(page, "<p class=\"notice\">{}</p>", escape(text));
            }
            Block::Facts(facts) => {
                page.push_str("<dl>");
                for (name, value) in facts {
                    let _ = write!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
                }
                page.push_str("</dl>\n");
            }
            Block::Table(table) => push_table(page, table),
            Block::Figures { caption, figures } => push_figures(page, caption, figures),
            Block::Code { summary, text } => {
                let (summary, text) = (escape(summary), escape(text));
                let _ = writeln!(page, "<details><summary>{summary}</summary><pre>{text}</pre></details>");
            }
        }
    }
    page.push_str("</section>\n");
}

fn push_table(page: &mut String, table: &Table) {
    let class = if table.is_text { " class=\"text\"" } else { "" };
    let _ = write!(page, "<div class=\"scroll\"><table{class}>");
    page.push_str("<thead>");
    for row in &table.head {
        page.push_str("<tr>");
        for (heading, columns) in row {
            let span = if *columns > 1 { format!(" colspan=\"{columns}\"") } else { String::new() };
            let _ = write!(page, "<th{span}>{}</th>", escape(heading));
        }
        page.push_str("</tr>");
    }
    page.push_str("</thead>\n<tbody>\n");
    let first_summary = table.rows.len().saturating_sub(table.summary_rows);
    for (index, row) in table.rows.iter().enumerate() {
        let class = match index {
            index if index < first_summary => "",
            index if index == first_summary => " class=\"first summary\"",
            _ => " class=\"summary\"",
        };
        let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let _ = writeln!(page, "<tr{class}>{cells}</tr>");
    }
    let _ = writeln!(page, "</tbody></table></div>\n<p class=\"caption\">{}</p>", escape(&table.caption));
}

fn push_figures(page: &mut String, caption: &str, figures: &[Figure]) {
    page.push_str("<figure><div class=\"panels\">\n");
    for figure in figures {
        match &figure.narrow {
            None => page.push_str(&figure.drawing.inline(&figure.label, "")),
            Some(narrow) => {
                page.push_str(&figure.drawing.inline(&figure.label, "wide desk"));
                page.push_str(&narrow.inline(&figure.label, "phone"));
            }
        }
        page.push('\n');
    }
    let _ = writeln!(page, "</div><figcaption>{}</figcaption></figure>", escape(caption));
}
