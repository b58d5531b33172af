//! From a document to a checked filter, or to all that is wrong with it.

use std::fmt;

use serde_json::{Map, Value};

use super::{
    DEPTH_MAX, FILTER_BYTES_MAX, Filter, TERMS_MAX,
    condition::{Comparison, Condition, Operand, Own, Term, Whole},
    number::Number,
};

/// Faults named at a time.
const FAULTS_MAX: usize = 16;

/// Something wrong with a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where, as a JSON pointer into the filter.
    pub pointer: String,
    /// What, and what would be right.
    pub why: String,
}

/// A document that is no filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidFilter {
    /// What is wrong, in the document's order; never empty.
    pub faults: Vec<Fault>,
}

impl fmt::Display for InvalidFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.faults.iter().enumerate() {
            let separator = if number > 0 { "; " } else { "" };
            let place = if fault.pointer.is_empty() {
                "the filter"
            } else {
                &fault.pointer
            };
            write!(f, "{separator}{place}: {}", fault.why)?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidFilter {}

/// What stands at a place, and so which conditions make sense there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The request: its parts by name.
    Request,
    /// Header fields by name, in any case.
    Headers,
    /// Query parameters by name.
    Query,
    /// A text.
    Text,
    /// Any JSON.
    Json,
}

const PARTS: [&str; 7] = [
    "method", "path", "query", "headers", "type", "source", "body",
];

const OPERATORS: [&str; 15] = [
    "$eq",
    "$ne",
    "$in",
    "$nin",
    "$gt",
    "$gte",
    "$lt",
    "$lte",
    "$exist",
    "$startsWith",
    "$endsWith",
    "$contains",
    "$and",
    "$or",
    "$not",
];

/// Checks a document.
pub(super) fn parse(document: &Value) -> Result<Filter, InvalidFilter> {
    let mut parser = Parser::default();
    let bytes = document.to_string().len();
    let root = if bytes > FILTER_BYTES_MAX {
        parser.fault(format!(
            "has {bytes} bytes; at most {FILTER_BYTES_MAX} are allowed"
        ));
        Condition::default()
    } else if document.is_object() {
        parser.condition(document, Place::Request)
    } else {
        parser.fault("must be an object such as {\"body\": {\"type\": \"order.paid\"}}");
        Condition::default()
    };
    if parser.faults.is_empty() {
        return Ok(Filter {
            document: document.clone(),
            root,
            places: parser.places,
            terms: parser.terms,
        });
    }
    Err(InvalidFilter {
        faults: parser.faults,
    })
}

#[derive(Default)]
struct Parser {
    path: Vec<String>,
    places: Vec<Box<str>>,
    terms: usize,
    faults: Vec<Fault>,
}

impl Parser {
    fn fault(&mut self, why: impl Into<String>) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault {
                pointer: self.pointer(),
                why: why.into(),
            });
        }
    }

    fn pointer(&self) -> String {
        let escape = |step: &String| format!("/{}", step.replace('~', "~0").replace('/', "~1"));
        self.path.iter().map(escape).collect()
    }

    /// Goes one step into the document.
    fn at<T>(&mut self, step: impl ToString, inner: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step.to_string());
        let result = inner(self);
        self.path.pop();
        result
    }

    /// A term at this place.
    fn term(&mut self) -> Term {
        self.count(1);
        let place = self.pointer();
        self.places.push(place.into());
        self.places.len() - 1
    }

    fn count(&mut self, terms: usize) {
        let before = self.terms;
        self.terms += terms;
        if before <= TERMS_MAX && self.terms > TERMS_MAX {
            self.fault(format!("the filter has more than {TERMS_MAX} terms"));
        }
    }

    fn condition(&mut self, document: &Value, place: Place) -> Condition {
        let mut condition = Condition::default();
        if self.path.len() > DEPTH_MAX || self.terms > TERMS_MAX {
            if self.path.len() > DEPTH_MAX {
                self.fault(format!("more than {DEPTH_MAX} levels deep"));
            }
            return condition;
        }
        match document {
            Value::Object(entries) => {
                if entries.is_empty() {
                    self.fault("says nothing; leave it out, or write {\"$exist\": true}");
                }
                self.entries(entries, place, &mut condition);
            }
            Value::Array(_) => {
                self.fault("a list is no condition; write {\"$in\": [...]} or {\"$and\": [...]}");
            }
            scalar if matches!(place, Place::Text | Place::Json) => {
                let term = self.term();
                let operand = operand(scalar);
                condition
                    .own
                    .extend(operand.map(|it| (term, Own::IsOneOf(vec![it]))));
            }
            _ => self.fault("must be an object of conditions by name"),
        }
        condition
    }

    fn entries(&mut self, entries: &Map<String, Value>, place: Place, into: &mut Condition) {
        for (key, value) in entries {
            self.at(key, |parser| {
                if key.starts_with('$') && !key.starts_with("$$") {
                    parser.operator(key, value, place, into);
                } else {
                    let name = key.strip_prefix('$').unwrap_or(key);
                    parser.field(name, value, place, into);
                }
            });
        }
    }

    fn field(&mut self, name: &str, value: &Value, place: Place, into: &mut Condition) {
        let (name, inner) = match place {
            Place::Request => match name {
                "query" => (name.to_owned(), Place::Query),
                "headers" => (name.to_owned(), Place::Headers),
                "body" => (name.to_owned(), Place::Json),
                "method" | "path" | "type" | "source" => (name.to_owned(), Place::Text),
                _ => {
                    let parts = PARTS.join(", ");
                    return self
                        .fault(format!("a filter asks about {parts}{}", hint(name, &PARTS)));
                }
            },
            Place::Headers => (name.to_ascii_lowercase(), Place::Text),
            Place::Query => (name.to_owned(), Place::Text),
            Place::Json => (name.to_owned(), Place::Json),
            Place::Text => {
                let operators = hint(&format!("${name}"), &OPERATORS);
                return self.fault(format!("a text has no fields{operators}"));
            }
        };
        let same = |(_, own): &(Term, Own)| matches!(own, Own::Field(known, _) if **known == *name);
        if into.own.iter().any(same) {
            return self.fault(format!("`{name}` stands here twice"));
        }
        let term = self.term();
        let condition = self.condition(value, inner);
        into.own.push((term, Own::Field(name.into(), condition)));
    }

    fn operator(&mut self, key: &str, value: &Value, place: Place, into: &mut Condition) {
        let is_logic = matches!(key, "$and" | "$or" | "$not");
        if !OPERATORS.contains(&key) {
            let known = OPERATORS.join(" ");
            let hint = hint(key, &OPERATORS);
            return self.fault(format!("is no operator{hint}; there are {known}"));
        }
        if !is_logic && !matches!(place, Place::Text | Place::Json) {
            return self.fault("compares a value, and here is none: name a part or field first");
        }
        let term = self.term();
        let whole = match key {
            "$exist" => match value {
                Value::Bool(wanted) => Some(Whole::Exist(*wanted)),
                _ => self.wrong("must be true or false"),
            },
            "$ne" => self
                .scalar(value)
                .map(|operand| Whole::IsNone(vec![operand])),
            "$nin" => self.scalars(value).map(Whole::IsNone),
            "$not" => Some(Whole::Not(self.condition(value, place))),
            "$and" => self.conditions(value, place).map(Whole::All),
            "$or" => self.conditions(value, place).map(Whole::Any),
            _ => None,
        };
        into.whole.extend(whole.map(|whole| (term, whole)));
        let text = |make: fn(Box<str>) -> Own, parser: &mut Self| match value {
            Value::String(text) => Some(make(text.as_str().into())),
            _ => parser.wrong("must be a text"),
        };
        let own = match key {
            "$eq" => self
                .scalar(value)
                .map(|operand| Own::IsOneOf(vec![operand])),
            "$in" => self.scalars(value).map(Own::IsOneOf),
            "$gt" => self.comparison(Comparison::Greater, value),
            "$gte" => self.comparison(Comparison::GreaterOrEqual, value),
            "$lt" => self.comparison(Comparison::Less, value),
            "$lte" => self.comparison(Comparison::LessOrEqual, value),
            "$startsWith" => text(Own::StartsWith, self),
            "$endsWith" => text(Own::EndsWith, self),
            "$contains" => text(Own::Contains, self),
            _ => None,
        };
        into.own.extend(own.map(|own| (term, own)));
    }

    fn wrong<T>(&mut self, why: &str) -> Option<T> {
        self.fault(why);
        None
    }

    fn scalar(&mut self, value: &Value) -> Option<Operand> {
        match operand(value) {
            Some(operand) => Some(operand),
            None => self.wrong("must be a text, a number, true, false or null"),
        }
    }

    fn scalars(&mut self, value: &Value) -> Option<Vec<Operand>> {
        let Some(values) = value.as_array().filter(|values| !values.is_empty()) else {
            return self.wrong("must be a list of at least one text, number, true, false or null");
        };
        self.count(values.len() - 1);
        let operands = values.iter().enumerate();
        let operands = operands.map(|(at, value)| self.at(at, |parser| parser.scalar(value)));
        operands.collect::<Vec<_>>().into_iter().collect()
    }

    fn comparison(&mut self, comparison: Comparison, value: &Value) -> Option<Own> {
        match operand(value) {
            Some(operand @ (Operand::Number(_) | Operand::Text(_))) => {
                Some(Own::Compares(comparison, operand))
            }
            _ => self.wrong("must be a number or a text"),
        }
    }

    fn conditions(&mut self, value: &Value, place: Place) -> Option<Vec<Condition>> {
        let Some(values) = value.as_array().filter(|values| !values.is_empty()) else {
            return self.wrong("must be a list of at least one condition");
        };
        let conditions = values.iter().enumerate();
        let conditions =
            conditions.map(|(at, value)| self.at(at, |parser| parser.condition(value, place)));
        Some(conditions.collect())
    }
}

fn operand(value: &Value) -> Option<Operand> {
    match value {
        Value::Null => Some(Operand::Null),
        Value::Bool(value) => Some(Operand::Bool(*value)),
        Value::Number(number) => Number::of(number).map(Operand::Number),
        Value::String(text) => Some(Operand::Text(text.as_str().into())),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// Names what was probably meant.
fn hint(typed: &str, known: &[&str]) -> String {
    let close = known
        .iter()
        .map(|name| (strsim::jaro_winkler(typed, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(one, _), (two, _)| one.total_cmp(two));
    close.map_or_else(String::new, |(_, name)| {
        format!(" (did you mean `{name}`?)")
    })
}
