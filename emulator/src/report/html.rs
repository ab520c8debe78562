//! Escaping, and small pieces of HTML.

use std::fmt::Write;

/// Text made safe for element content and quoted attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are no characters of HTML.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// JSON made safe inside a `<script>` element, whatever strings it holds.
#[must_use]
pub fn json_for_script(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// A cell: its HTML, and whether it is a number (aligned right, sorted by `key`).
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    html: String,
    key: Option<f64>,
    numeric: bool,
}

impl Cell {
    pub(super) fn text(text: &str) -> Self {
        Self {
            html: escape(text),
            ..Self::default()
        }
    }

    /// HTML that is safe already.
    pub(super) fn raw(html: String) -> Self {
        Self {
            html,
            ..Self::default()
        }
    }

    /// A number as shown, with the value it sorts by; a dash where there is none.
    pub(super) fn number(value: Option<f64>, shown: impl Fn(f64) -> String) -> Self {
        let value = value.filter(|v| v.is_finite());
        let html = value.map_or_else(|| "–".to_owned(), |v| escape(&shown(v)));
        Self {
            html,
            key: value,
            numeric: true,
        }
    }
}

/// A table; `sortable` ones are sorted by a click on a heading.
pub(super) fn table(headings: &[&str], rows: &[Vec<Cell>], sortable: bool) -> String {
    let mut out = String::new();
    let class = if sortable { " class=\"sortable\"" } else { "" };
    let numeric = |n: usize| {
        rows.first()
            .and_then(|r| r.get(n))
            .is_some_and(|c| c.numeric)
    };
    let _ = write!(out, "<div class=\"scroll\"><table{class}><thead><tr>");
    for (n, heading) in headings.iter().enumerate() {
        let class = if numeric(n) { " class=\"n\"" } else { "" };
        let _ = write!(out, "<th{class}>{}</th>", escape(heading));
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let class = if cell.numeric { " class=\"n\"" } else { "" };
            let key = cell
                .key
                .map_or_else(String::new, |k| format!(" data-k=\"{k}\""));
            let _ = write!(out, "<td{class}{key}>{}</td>", cell.html);
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}

/// `measured` and the like as a small label.
pub(super) fn tag(name: &str) -> String {
    format!("<span class=\"tag {0}\">{0}</span>", escape(name))
}
