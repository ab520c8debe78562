//! Which lines of a ground-truth file to replay: conditions on its own columns.
//!
//! `kind=wan`, `link_mbit>=200,return_path=true`, `kind=plain|boundary`: conditions separated by
//! commas, all of which must hold; alternatives separated by `|`. A column that a line does not have
//! is null and fits `null` only.

use serde_json::{Map, Value};
use std::str::FromStr;

/// Conditions on columns.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selection(Vec<Condition>);

#[derive(Debug, Clone, PartialEq)]
struct Condition {
    column: String,
    relation: Relation,
    /// One of these.
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Is,
    IsNot,
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// Longest first, so that `<=` is not read as `<`.
const RELATIONS: [(&str, Relation); 6] = [
    ("!=", Relation::IsNot),
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("=", Relation::Is),
    ("<", Relation::Below),
    (">", Relation::Above),
];

/// A condition that does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// No relation in it.
    #[error("`{0}` is no condition; write column=value, with =, !=, <, <=, > or >=")]
    NoRelation(String),
    /// An order needs a number.
    #[error("`{0}`: an order needs one number")]
    NoNumber(String),
}

impl FromStr for Selection {
    type Err = SelectionError;

    fn from_str(text: &str) -> Result<Self, SelectionError> {
        let conditions = text.split(',').map(str::trim).filter(|c| !c.is_empty());
        conditions
            .map(condition)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn condition(text: &str) -> Result<Condition, SelectionError> {
    let found = RELATIONS
        .iter()
        .filter_map(|(sign, relation)| Some((text.find(sign)?, sign, *relation)))
        .min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())));
    let Some((at, sign, relation)) = found.filter(|(at, ..)| *at > 0) else {
        return Err(SelectionError::NoRelation(text.to_owned()));
    };
    let values: Vec<String> = text[at + sign.len()..]
        .split('|')
        .map(|value| value.trim().to_owned())
        .collect();
    let ordered = !matches!(relation, Relation::Is | Relation::IsNot);
    let number = values.len() == 1 && values[0].parse::<f64>().is_ok();
    if ordered && !number {
        return Err(SelectionError::NoNumber(text.to_owned()));
    }
    Ok(Condition {
        column: text[..at].trim().to_owned(),
        relation,
        values,
    })
}

impl Selection {
    /// Whether a line fits.
    #[must_use]
    pub fn fits(&self, line: &Map<String, Value>) -> bool {
        self.0.iter().all(|condition| condition.fits(line))
    }

    /// Columns named that no line has: a slip of the pen.
    #[must_use]
    pub fn unknown(&self, mut has: impl FnMut(&str) -> bool) -> Option<&str> {
        let columns = self.0.iter().map(|condition| condition.column.as_str());
        columns.filter(|column| !has(column)).last()
    }
}

impl Condition {
    fn fits(&self, line: &Map<String, Value>) -> bool {
        let value = line.get(&self.column).unwrap_or(&Value::Null);
        let is = |wanted: &String| match value {
            Value::String(text) => text == wanted,
            Value::Number(number) => number.as_f64() == wanted.parse().ok(),
            Value::Bool(yes) => wanted.parse() == Ok(*yes),
            Value::Null => wanted == "null",
            Value::Array(_) | Value::Object(_) => false,
        };
        let order = || {
            Some(
                value
                    .as_f64()?
                    .total_cmp(&self.values.first()?.parse().ok()?),
            )
        };
        match self.relation {
            Relation::Is => self.values.iter().any(is),
            Relation::IsNot => !self.values.iter().any(is),
            Relation::Below => order().is_some_and(|order| order.is_lt()),
            Relation::AtMost => order().is_some_and(|order| order.is_le()),
            Relation::Above => order().is_some_and(|order| order.is_gt()),
            Relation::AtLeast => order().is_some_and(|order| order.is_ge()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fits(selection: &str) -> bool {
        let line = json!({"kind": "wan", "link_mbit": 200, "return_path": true, "flows": 0});
        let selection: Selection = selection.parse().unwrap();
        selection.fits(line.as_object().unwrap())
    }

    #[test]
    fn conditions_are_of_the_lines_own_columns() {
        for yes in [
            "",
            "kind=wan",
            "kind = plain | wan",
            "link_mbit>=200,link_mbit<=200",
            "link_mbit>199.5",
            "return_path=true",
            "status=null",
            "kind!=plain",
        ] {
            assert!(fits(yes), "{yes}");
        }
        for no in [
            "kind=plain",
            "link_mbit<200",
            "kind<3",
            "status>1",
            "kind!=wan|plain",
        ] {
            assert!(!fits(no), "{no}");
        }
    }

    #[test]
    fn slips_are_told() {
        let slip = |text: &str| text.parse::<Selection>().unwrap_err();
        assert!(matches!(slip("wan"), SelectionError::NoRelation(_)));
        assert!(matches!(slip("=wan"), SelectionError::NoRelation(_)));
        assert!(matches!(
            slip("link_mbit<fast"),
            SelectionError::NoNumber(_)
        ));
        let selection: Selection = "kind=wan,knid=x".parse().unwrap();
        assert_eq!(selection.unknown(|column| column == "kind"), Some("knid"));
    }
}
