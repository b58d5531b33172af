//! `relay-server store`, `backup`, `restore`: the data on this machine's disk. No relay is asked.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Failure, load_config, output::Table, print, tell};
use crate::{
    args::{BackupArgs, DataArgs, Output, RestoreArgs, StoreArgs, StoreCommand},
    clock::{Clock as _, SystemClock},
    config::Overrides,
    store::embedded::upkeep::{self, Inspection, UpkeepError},
};

/// How often a rebuild tells how far it is, in changes.
const PROGRESS_EVERY: u64 = 250_000;

impl From<UpkeepError> for Failure {
    fn from(error: UpkeepError) -> Self {
        Self::Plain(error.to_string())
    }
}

pub(super) fn store(args: &StoreArgs, config: Option<&Path>) -> Result<(), Failure> {
    let directory = directory(&args.data, config)?;
    match args.command {
        StoreCommand::Check => {
            let look = upkeep::check(&directory)?;
            show(args.data.output, &look, || check_text(&look))?;
            match look
                .troubles
                .iter()
                .filter(|trouble| trouble.is_loss())
                .count()
            {
                0 => Ok(()),
                losses => Err(Failure::Plain(format!(
                    "{losses} problems; stop the relay and run `relay-server store repair`, or restore a backup"
                ))),
            }
        }
        StoreCommand::Stats => {
            let look = upkeep::check(&directory)?;
            show(args.data.output, &look, || stats_text(&look))
        }
        StoreCommand::Repair => {
            let repaired = upkeep::repair(&directory)?;
            show(args.data.output, &repaired, || {
                let mut text = String::new();
                for trouble in &repaired.troubles {
                    let _ = writeln!(text, "found     {trouble}");
                }
                for number in &repaired.set_aside {
                    let _ = writeln!(text, "set aside journal/damaged/{number:08}.seg");
                }
                if repaired.projection_removed {
                    text.push_str("removed   the damaged lists; the next start makes them anew\n");
                }
                let _ = writeln!(text, "lost      {} records", repaired.lost);
                text
            })
        }
        StoreCommand::Rebuild => {
            let mut told = 0;
            let rebuilt = upkeep::rebuild(&directory, |changes| {
                if changes >= told + PROGRESS_EVERY {
                    told = changes;
                    tell(&format!("{changes} changes applied\n"));
                }
            })?;
            show(args.data.output, &rebuilt, || {
                format!(
                    "{} changes applied; the lists are up to date\n",
                    rebuilt.changes
                )
            })
        }
    }
}

pub(super) fn back_up(args: &BackupArgs, config: Option<&Path>) -> Result<(), Failure> {
    let directory = directory(&args.data, config)?;
    let now = SystemClock.now().0;
    let backed_up = match is_dash(&args.file) {
        true => upkeep::back_up(&directory, now, BufWriter::new(io::stdout().lock()))?,
        false => {
            let unusable =
                |error: io::Error| Failure::Plain(format!("{}: {error}", args.file.display()));
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&args.file)
                .map_err(unusable)?;
            let done =
                upkeep::back_up(&directory, now, BufWriter::new(&file)).map_err(Failure::from);
            let done = done.and_then(|done| file.sync_all().map_err(unusable).map(|()| done));
            if done.is_err() {
                // Half a backup is worse than none: somebody might count on it.
                let _ = std::fs::remove_file(&args.file);
            }
            done?
        }
    };
    tell(&format!(
        "backed up {} segments, {} bytes, up to record {}; the key file is not in it\n",
        backed_up.segments, backed_up.bytes, backed_up.last_seq
    ));
    Ok(())
}

pub(super) fn restore(args: &RestoreArgs, config: Option<&Path>) -> Result<(), Failure> {
    let directory = directory(&args.data, config)?;
    let restored = match is_dash(&args.file) {
        true => upkeep::restore(&directory, io::stdin().lock())?,
        false => {
            let file = File::open(&args.file)
                .map_err(|error| Failure::Plain(format!("{}: {error}", args.file.display())))?;
            upkeep::restore(&directory, BufReader::new(file))?
        }
    };
    show(args.data.output, &restored, || {
        format!(
            "restored {} segments, {} bytes, up to record {}, into {}\n\
             put the key file of that relay there, too, or name it with --secret-key-file; then start it\n",
            restored.segments,
            restored.bytes,
            restored.last_seq,
            directory.display()
        )
    })
}

/// Where the data is: by flag or variable, else as the relay's configuration says.
fn directory(args: &DataArgs, config: Option<&Path>) -> Result<PathBuf, Failure> {
    match &args.data_dir {
        Some(directory) => Ok(directory.clone()),
        None => Ok(load_config(config, &Overrides::default())?.config.data_dir),
    }
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn show(
    output: Output,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match output {
        Output::Text => print(text().as_bytes()),
        Output::Json | Output::Ndjson => {
            let json =
                serde_json::to_string(value).map_err(|error| Failure::Plain(error.to_string()))?;
            print(format!("{json}\n").as_bytes())
        }
    }
}

fn check_text(look: &Inspection) -> String {
    let mut text = String::new();
    for trouble in &look.troubles {
        let _ = writeln!(text, "{trouble}");
    }
    let records: u64 = look.records.values().sum();
    let _ = writeln!(
        text,
        "{} segments, {records} records, {} bytes checked; {}",
        look.segments.len(),
        look.journal_bytes,
        match look.troubles.is_empty() {
            true => "all is whole",
            false => "not all is whole",
        }
    );
    if look.in_use {
        text.push_str("a relay runs on it: what it wrote meanwhile was not checked\n");
    }
    text
}

fn stats_text(look: &Inspection) -> String {
    let mut table = Table::new(&[
        "SEGMENT",
        "BYTES",
        "FIRST RECORD",
        "RECORDS",
        "LAST WRITTEN",
    ]);
    for segment in &look.segments {
        let last = segment
            .last_at_ms
            .and_then(|ms| jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok());
        table.row([
            segment.number.to_string(),
            segment.bytes.to_string(),
            segment.first_seq.to_string(),
            segment.records.to_string(),
            last.map_or_else(|| "-".to_owned(), |last| format!("{last:.0}")),
        ]);
    }
    let mut text = table.to_string();
    let mut records = Table::new(&["RECORDS", "COUNT"]);
    for (kind, count) in &look.records {
        records.row([(*kind).to_owned(), count.to_string()]);
    }
    let _ = write!(text, "\n{records}\n");
    let applied = look.projection.applied_seq;
    let behind = applied.map(|applied| look.last_seq.saturating_sub(applied));
    let _ = writeln!(
        text,
        "journal     {} bytes, records {} to {}",
        look.journal_bytes, look.first_seq, look.last_seq
    );
    let _ = writeln!(
        text,
        "projection  {} bytes, {}",
        look.projection.bytes,
        behind.map_or_else(
            || "rebuilt by the next start".to_owned(),
            |behind| format!("{behind} records behind")
        )
    );
    text
}
