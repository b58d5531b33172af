//! The model as cells of a terminal.

use jiff::tz::TimeZone;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph, Wrap},
};

use super::{
    body, curl,
    keys::HELP,
    model::{LinkState, Model, Page, Tab},
    record::{Call, CallKind, Record, Standing},
};
use crate::terminal::line::for_people;

/// Columns from which everything fits in a row.
const WIDE: u16 = 108;

/// Columns below which a row has only what matters most.
const NARROW: u16 = 60;

/// Draws everything, and returns the height of the list.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, zone: &TimeZone) -> usize {
    let routes = match model.shows_routes && model.page == Page::List {
        true => model.sources.len().min(4) as u16,
        false => 0,
    };
    let [top, urls, main, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(routes),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(state_line(model, top.width)), top);
    frame.render_widget(
        Paragraph::new(source_lines(model, usize::from(routes))),
        urls,
    );
    match model.page {
        Page::List => list(frame, model, main, zone),
        Page::Details { tab, scroll } => details(frame, model, main, zone, tab, scroll),
        Page::Help => help(frame, main),
    }
    frame.render_widget(Paragraph::new(bottom_line(model, bottom.width)), bottom);
    usize::from(main.height)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// `● connected relay.example.com · 23 ms · 2 sources · 1 in hand · 12 events, 11 delivered, 1 failed`
fn state_line(model: &Model, width: u16) -> Line<'static> {
    let (sign, word, color) = match &model.link {
        _ if model.stopping.is_some() => ("○", "stopping".to_owned(), Color::Yellow),
        LinkState::Connecting => ("○", "connecting to".to_owned(), Color::Yellow),
        LinkState::Connected { .. } => ("●", "connected".to_owned(), Color::Green),
        LinkState::Suspect => ("○", "silent, dialling again".to_owned(), Color::Yellow),
        LinkState::Lost { .. } => ("○", "not connected".to_owned(), Color::Red),
    };
    let mut facts = vec![format!(" {word} {}", model.relay)];
    if let LinkState::Connected { rtt: Some(rtt) } = model.link {
        facts.push(format!("{:.1} ms", rtt.as_secs_f64() * 1000.0));
    }
    let totals = model.totals;
    if width >= WIDE {
        facts.push(plural(model.sources.len() as u64, "source"));
    }
    if width >= NARROW {
        facts.push(format!("{} in hand", totals.in_hand));
    }
    let count = plural(totals.events, "event");
    facts.push(match width >= NARROW {
        true => format!("{count}: {} ok, {} failed", totals.delivered, totals.failed),
        false => count,
    });
    if let LinkState::Lost { what } = &model.link {
        facts.push(what.clone());
    }
    Line::from(vec![
        Span::styled(sign, Style::new().fg(color)),
        Span::styled(facts.join(" · "), bold()),
    ])
}

fn plural(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

fn source_lines(model: &Model, most: usize) -> Vec<Line<'static>> {
    let lines = model.sources.iter().take(most).map(|(name, url)| {
        Line::from(vec![
            Span::raw(format!("  {name}  ")),
            Span::styled(url.clone(), Style::new().fg(Color::Cyan)),
        ])
    });
    lines.collect()
}

/// A search, a notice, or the keys.
fn bottom_line(model: &Model, width: u16) -> Line<'static> {
    if model.is_typing {
        return Line::from(format!("/{}▏", for_people(&model.search_text)));
    }
    if let Some(notice) = &model.notice {
        return Line::styled(notice.clone(), Style::new().fg(Color::Yellow));
    }
    let mut facts = Vec::new();
    if let Some(held) = model.held_back() {
        facts.push(format!("held still, {held} more (p goes on)"));
    }
    if !model.search_text.is_empty() {
        facts.push(format!("/{} (Esc ends)", for_people(&model.search_text)));
    }
    let keys = match width {
        WIDE.. => {
            "Enter details · r replay · e edit · c curl · / search · p hold · f follow · ? keys · q stop"
        }
        NARROW..WIDE => "Enter details · r replay · e edit · c curl · / search · ? keys · q stop",
        _ => "Enter · r · e · c · / · ? keys · q",
    };
    facts.push(keys.to_owned());
    Line::styled(facts.join(" · "), dim())
}

fn list(frame: &mut Frame<'_>, model: &Model, area: Rect, zone: &TimeZone) {
    let listed = model.listed();
    if listed.is_empty() {
        frame.render_widget(
            Paragraph::new(nothing(model)).wrap(Wrap { trim: false }),
            area,
        );
        return;
    }
    let height = usize::from(area.height);
    let selected = model.selected_index(&listed);
    let last = selected.unwrap_or(listed.len() - 1);
    // The selected row stays in sight, the newest at the bottom.
    let end = match model.follows || last + height > listed.len() {
        true => listed.len(),
        false => (last + height / 2 + 1).clamp(height.min(listed.len()), listed.len()),
    };
    let start = end.saturating_sub(height);
    let rows = (start..).zip(&listed[start..end]).map(|(index, record)| {
        let row = row(record, area.width, zone);
        match selected == Some(index) {
            true => row.style(Style::new().add_modifier(Modifier::REVERSED)),
            false => row,
        }
    });
    frame.render_widget(Paragraph::new(rows.collect::<Vec<_>>()), area);
}

fn nothing(model: &Model) -> Vec<Line<'static>> {
    if !model.search_text.is_empty() {
        return vec![
            Line::raw(""),
            Line::raw("  Nothing matches. Esc ends the search."),
        ];
    }
    let mut lines = vec![
        Line::raw(""),
        Line::raw("  No events yet. Send one:"),
        Line::raw(""),
    ];
    lines.extend(
        model
            .sources
            .iter()
            .take(3)
            .map(|(name, _)| Line::raw(format!("    relay-agent send {name}"))),
    );
    lines
}

fn row(record: &Record, width: u16, zone: &TimeZone) -> Line<'static> {
    let color = match record.standing() {
        Standing::Answered(200..=299) => Color::Green,
        Standing::Running => Color::Cyan,
        Standing::Answered(300..=399) => Color::Yellow,
        Standing::Answered(_) | Standing::Failed => Color::Red,
    };
    let time = record.came_at.to_zoned_datetime(zone.clone());
    let mut spans = Vec::new();
    if width >= NARROW {
        spans.push(Span::raw(format!("{} ", time.strftime("%H:%M:%S"))));
    }
    spans.push(Span::styled(
        format!("[{}] ", record.status()),
        Style::new().fg(color),
    ));
    spans.push(Span::raw(format!(
        "{} ",
        for_people(&record.offer.request.method)
    )));
    spans.push(Span::raw(record.path()));
    let event_type = record.event_type();
    if !event_type.is_empty() {
        spans.push(Span::styled(format!(" {event_type}"), bold()));
    }
    if let Some(call) = record.calls.last() {
        let took = match &call.result {
            Ok(_) => format!(" {} ms", call.elapsed_ms),
            Err(reason) => format!(" {reason}"),
        };
        spans.push(Span::styled(took, dim()));
    }
    let calls = record.calls.len();
    if calls > 1 {
        spans.push(Span::styled(format!(" ×{calls}"), dim()));
    }
    if width >= WIDE {
        spans.push(Span::styled(format!("  {}", record.offer.event), dim()));
    }
    Line::from(spans)
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let lines = HELP.map(|(keys, meaning)| {
        Line::from(vec![
            Span::styled(format!("  {keys:<18}"), bold()),
            Span::raw(meaning),
        ])
    });
    let block = Block::new().borders(Borders::TOP).title("Keys");
    frame.render_widget(Paragraph::new(lines.to_vec()).block(block), area);
}

fn details(
    frame: &mut Frame<'_>,
    model: &mut Model,
    area: Rect,
    zone: &TimeZone,
    tab: Tab,
    scroll: usize,
) {
    let Some(record) = model.selected() else {
        model.page = Page::List;
        return;
    };
    let [head, main] = Layout::vertical([Constraint::Length(2), Constraint::Min(1)]).areas(area);
    let titles = Tab::ALL.map(|one| {
        let style = if one == tab {
            bold().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        Span::styled(format!(" {} ", one.title()), style)
    });
    let title = Line::from(format!("{} {}", record.offer.event, record.event_type()));
    frame.render_widget(
        Paragraph::new(vec![title, Line::from(titles.to_vec())]),
        head,
    );
    let lines = match tab {
        Tab::Request => request(record, model.reveals),
        Tab::Response => response(record),
        Tab::Attempts => attempts(record, zone),
        Tab::Curl => match curl::command(record) {
            Ok(command) => command
                .lines()
                .map(|line| Line::raw(line.to_owned()))
                .collect(),
            Err(reason) => vec![Line::raw(format!(
                "There is no curl command for it: {reason}"
            ))],
        },
    };
    // Wrapping at words may take more rows than this; the last ones can be reached all the same.
    let columns = usize::from(main.width).max(1);
    let rows = lines
        .iter()
        .map(|line| line.width().div_ceil(columns).max(1));
    let most = rows.sum::<usize>().saturating_sub(1);
    let block = Block::new().borders(Borders::TOP);
    let text = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .block(block);
    let scroll = scroll.min(most);
    let text = text.scroll((u16::try_from(scroll).unwrap_or(u16::MAX), 0));
    frame.render_widget(text, main);
    model.clip_scroll(most);
}

fn request(record: &Record, reveals: bool) -> Vec<Line<'static>> {
    let request = &record.offer.request;
    let target = record.service.target();
    let mut lines = vec![Line::styled(
        format!(
            "{} {target}{}",
            for_people(&request.method),
            for_people(&request.target)
        ),
        bold(),
    )];
    lines.extend(request.headers.0.iter().map(|(name, value)| {
        field(
            name,
            if !reveals && is_secret(name) {
                b"*** (s shows it)"
            } else {
                value
            },
        )
    }));
    lines.push(Line::raw(""));
    match &record.body {
        Some(bytes) => lines.extend(body::lines(bytes)),
        None => lines.push(Line::raw(format!(
            "The body of {} bytes is too large to be kept here.",
            record.offer.body_bytes
        ))),
    }
    lines
}

fn response(record: &Record) -> Vec<Line<'static>> {
    let Some(call) = record.calls.last() else {
        return vec![Line::raw("The service has not answered yet.")];
    };
    let answer = match &call.result {
        Ok(answer) => answer,
        Err(reason) => {
            return vec![Line::styled(
                format!("No answer: {reason}"),
                Style::new().fg(Color::Red),
            )];
        }
    };
    let took = format!(
        "{} to {} in {} ms",
        answer.status, call.kind, call.elapsed_ms
    );
    let mut lines = vec![Line::styled(took, bold())];
    lines.extend(
        answer
            .headers
            .0
            .iter()
            .map(|(name, value)| field(name, value)),
    );
    lines.push(Line::raw(""));
    lines.extend(body::lines(&answer.start));
    let more = answer.body_bytes.saturating_sub(answer.start.len() as u64);
    if more > 0 {
        lines.push(Line::styled(format!("… and {more} bytes more"), dim()));
    }
    lines
}

fn attempts(record: &Record, zone: &TimeZone) -> Vec<Line<'static>> {
    let mut lines: Vec<_> = record
        .calls
        .iter()
        .map(|call| attempt(call, zone))
        .collect();
    if record.running > 0 {
        lines.push(Line::raw("… waiting for the service"));
    }
    let local = |call: &Call| !matches!(call.kind, CallKind::Attempt(_));
    if record.calls.iter().any(local) {
        lines.push(Line::raw(""));
        lines.push(Line::styled(
            "Replays of this screen are not reported to the relay.",
            dim(),
        ));
    }
    lines
}

fn attempt(call: &Call, zone: &TimeZone) -> Line<'static> {
    let time = call.ended_at.to_zoned_datetime(zone.clone());
    let (result, color) = match &call.result {
        Ok(answer) if call.is_success() => (answer.status.to_string(), Color::Green),
        Ok(answer) => (answer.status.to_string(), Color::Red),
        Err(reason) => (reason.clone(), Color::Red),
    };
    Line::from(vec![
        Span::raw(format!(
            "{}  {:<14} ",
            time.strftime("%H:%M:%S"),
            call.kind.to_string()
        )),
        Span::styled(result, Style::new().fg(color)),
        Span::styled(format!("  {} ms", call.elapsed_ms), dim()),
    ])
}

fn field(name: &[u8], value: &[u8]) -> Line<'static> {
    Line::from(vec![
        Span::styled(format!("{}: ", text(name)), Style::new().fg(Color::Cyan)),
        Span::raw(text(value)),
    ])
}

/// Bytes of a header field, without what could steer a terminal.
fn text(bytes: &[u8]) -> String {
    body::harmless(&String::from_utf8_lossy(bytes))
}

/// Headers that hold credentials or could be replayed.
fn is_secret(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_lowercase();
    [
        "authorization",
        "cookie",
        "token",
        "secret",
        "signature",
        "api-key",
        "apikey",
    ]
    .iter()
    .any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::{
        super::{
            keys::Command,
            sample::{call, record},
        },
        *,
    };

    fn model() -> Model {
        let mut model = Model::new("relay.example.com".to_owned());
        model.link = LinkState::Connected {
            rtt: Some(std::time::Duration::from_micros(23_400)),
        };
        model.sources = vec![(
            "github".to_owned(),
            "https://relay.example.com/in/k".to_owned(),
        )];
        for (number, status) in [(1, Some(200)), (2, Some(500)), (3, None)] {
            model.began(record(number, None));
            model.ended(record(number, None).delivery(), call(status));
        }
        model.began(record(4, None));
        model
    }

    /// What a terminal of this size shows, without blanks at the ends of rows.
    fn shown(model: &mut Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal
            .draw(|frame| {
                draw(frame, model, &TimeZone::UTC);
            })
            .unwrap();
        let buffer = terminal.backend().buffer();
        let rows = (0..height).map(|y| {
            let row = (0..width)
                .map(|x| buffer[(x, y)].symbol())
                .collect::<String>();
            row.trim_end().to_owned() + "\n"
        });
        rows.collect()
    }

    #[test]
    fn a_row_fits_every_width() {
        let wide = shown(&mut model(), 160, 10);
        for part in [
            "● connected relay.example.com · 23.4 ms · 1 source · 1 in hand · 4 events: 1 ok, 2 failed",
            "  github  https://relay.example.com/in/k",
            "11:39:02 [200] POST /in/github/a push 23 ms  evt_00000000000000000000000001",
            "11:39:02 [ERR] POST /in/github/a push connection refused",
            "11:39:02 [...] POST /in/github/a push",
            "? keys · q stop",
        ] {
            assert!(wide.contains(part), "{part}\n{wide}");
        }
        assert!(
            !wide.contains("b=2"),
            "a query is nobody's business\n{wide}"
        );

        let usual = shown(&mut model(), 80, 10);
        assert!(
            usual.contains("11:39:02 [500] POST /in/github/a push 23 ms\n"),
            "{usual}"
        );
        assert!(usual.lines().all(|line| line.chars().count() <= 80));
        let narrow = shown(&mut model(), 40, 10);
        assert!(
            narrow.contains("\n[500] POST /in/github/a push 23 ms\n"),
            "{narrow}"
        );
    }

    #[test]
    fn details_hide_secrets_until_they_are_asked_for() {
        let mut model = model();
        model.obey(Command::First);
        model.obey(Command::Open);
        let request = shown(&mut model, 80, 20);
        for part in [
            "POST http://localhost:3000/hook/a?a=1&b=2",
            "x-github-event: push",
            "\"zen\": \"it's\"",
        ] {
            assert!(request.contains(part), "{part}\n{request}");
        }
        assert!(request.contains("x-hub-signature-256: ***"), "{request}");
        model.obey(Command::Reveal);
        assert!(shown(&mut model, 80, 20).contains("x-hub-signature-256: sha256=abcdef"));

        model.obey(Command::NextTab);
        let response = shown(&mut model, 80, 20);
        assert!(
            response.contains("200 OK to attempt 1 in 23 ms") && response.contains("thank you"),
            "{response}"
        );
        model.obey(Command::NextTab);
        assert!(shown(&mut model, 80, 20).contains("11:39:02  attempt 1      200 OK  23 ms"));
        model.obey(Command::NextTab);
        assert!(shown(&mut model, 80, 20).contains("curl -sS -i -X POST \\"));
    }

    #[test]
    fn no_size_is_too_small() {
        for (width, height) in [(1, 1), (3, 2), (20, 3), (59, 4), (300, 100)] {
            let mut model = model();
            for command in [
                Command::Open,
                Command::Down(1000),
                Command::Back,
                Command::Help,
                Command::Help,
            ] {
                shown(&mut model, width, height);
                model.obey(command);
            }
            shown(&mut model, width, height);
        }
    }

    #[test]
    fn events_cannot_steer_the_terminal() {
        let mut hostile = record(1, Some(200));
        hostile.offer.event_type = Some("\u{1b}[2J".to_owned());
        hostile.offer.request.headers.0.push((
            bytes::Bytes::from_static(b"x-evil"),
            bytes::Bytes::from_static(b"\x1b]0;owned\x07"),
        ));
        hostile.body = Some(bytes::Bytes::from_static(b"\x1b[31mred\r\n"));
        let mut model = Model::new(String::new());
        model.began(hostile);
        model.obey(Command::Open);
        let text = shown(&mut model, 100, 30);
        assert!(
            !text
                .chars()
                .any(|character| character.is_control() && character != '\n'),
            "{text:?}"
        );
    }

    #[test]
    fn nothing_yet_says_what_to_do() {
        let mut model = Model::new("relay".to_owned());
        model.sources = vec![("stripe".to_owned(), "u".to_owned())];
        assert!(shown(&mut model, 80, 12).contains("relay-agent send stripe"));
        model.obey(Command::Help);
        assert!(shown(&mut model, 80, 24).contains("search: words"));
    }
}
