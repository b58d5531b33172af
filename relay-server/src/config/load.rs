//! File, environment and flags become one configuration.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{
    Config, ConfigError, KEYS, Key, Shape,
    error::{code_of, explain, line_of},
};

/// The file that is read if it exists and no other one is named.
pub const DEFAULT_PATH: &str = "/etc/hookferry/server.toml";

/// What the flags say: the name of a key and the text that was given for it.
#[derive(Debug, Clone, Default)]
pub struct Overrides(pub Vec<(&'static Key, String)>);

/// Who set a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// The file.
    File(PathBuf),
    /// A variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// A configuration and where each of its values comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, checked.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    origins: BTreeMap<&'static str, Origin>,
}

impl Loaded {
    /// Reads everything and checks it.
    ///
    /// `path` is the file that the operator named; without one the default file counts if it exists.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the place and what to do: print it and end with exit code 4.
    pub fn load(
        path: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        let file = match path {
            Some(path) => layers.add_file(path, true)?,
            None => layers.add_file(Path::new(DEFAULT_PATH), false)?,
        };
        for key in KEYS {
            let name = key.variable();
            if let Some(text) = variable(&name).filter(|text| !text.is_empty()) {
                layers.add(key, &text, Origin::Variable(name))?;
            }
        }
        for (key, text) in &overrides.0 {
            layers.add(key, text, Origin::Flag(key.flag()))?;
        }
        let config: Config = layers
            .values
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::Together(explain(&error)))?;
        config.check()?;
        Ok(Self {
            config,
            file,
            origins: layers.origins,
        })
    }

    /// Every key, its value as TOML, and who set it.
    pub fn settings(&self) -> Vec<(&'static Key, Option<Value>, Origin)> {
        let values = Table::try_from(&self.config).unwrap_or_default();
        let describe = |key: &'static Key| {
            let origin = self.origins.get(key.name).cloned();
            (
                key,
                find(&values, key.name).cloned(),
                origin.unwrap_or(Origin::Default),
            )
        };
        KEYS.iter().map(describe).collect()
    }
}

/// What was set so far.
#[derive(Default)]
struct Layers {
    values: Table,
    origins: BTreeMap<&'static str, Origin>,
}

impl Layers {
    fn add_file(&mut self, path: &Path, required: bool) -> Result<Option<PathBuf>, ConfigError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return Ok(None),
            Err(source) => {
                return Err(ConfigError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let wrong = |error: toml::de::Error| ConfigError::File {
            path: path.to_owned(),
            line: line_of(&text, error.span()),
            code: code_of(&error),
            why: explain(&error),
        };
        // Read as the whole configuration first: only that knows which keys and types are right.
        toml::from_str::<Config>(&text).map_err(wrong)?;
        self.values = toml::from_str(&text).map_err(wrong)?;
        for key in KEYS {
            if find(&self.values, key.name).is_some() {
                self.origins.insert(key.name, Origin::File(path.to_owned()));
            }
        }
        Ok(Some(path.to_owned()))
    }

    fn add(&mut self, key: &'static Key, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let wrong = |why: String| ConfigError::Setting {
            place: origin.to_string(),
            why,
        };
        let value = parse(key, text).map_err(wrong)?;
        let mut alone = Table::new();
        insert(&mut alone, key.name, value.clone());
        if let Err(error) = alone.try_into::<Config>() {
            return Err(wrong(explain(&error)));
        }
        insert(&mut self.values, key.name, value);
        self.origins.insert(key.name, origin);
        Ok(())
    }
}

fn parse(key: &Key, text: &str) -> Result<Value, String> {
    Ok(match key.shape {
        Shape::Text => Value::String(text.to_owned()),
        Shape::Number => Value::Integer(
            text.parse()
                .map_err(|_| format!("`{text}` is not a whole number"))?,
        ),
        Shape::Switch => Value::Boolean(match text {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return Err(format!("`{text}` is neither true nor false")),
        }),
        Shape::List => {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
    })
}

fn find<'a>(table: &'a Table, name: &str) -> Option<&'a Value> {
    match name.split_once('.') {
        None => table.get(name),
        Some((section, name)) => table.get(section)?.as_table()?.get(name),
    }
}

fn insert(table: &mut Table, name: &str, value: Value) {
    match name.split_once('.') {
        None => {
            table.insert(name.to_owned(), value);
        }
        Some((section, name)) => {
            let section = table
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(name.to_owned(), value);
            }
        }
    }
}
