//! What is on the screen, and what keys do to it. Pure: it neither draws nor calls.

use std::{collections::VecDeque, time::Duration};

use protocol::id::DeliveryId;

use super::{
    curl,
    keys::Command,
    record::{Call, Record},
    search::Search,
};

/// Events that are kept.
const RECORDS_MAX: usize = 1000;

/// Bytes that are kept of them, about.
const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Characters of a search.
const SEARCH_CHARS_MAX: usize = 200;

/// Everything on the screen.
#[derive(Debug, Default)]
pub(super) struct Model {
    records: VecDeque<Numbered>,
    next_number: u64,
    bytes: usize,
    selected: Option<DeliveryId>,
    /// The newest is selected as it comes.
    pub(super) follows: bool,
    /// Events from this number on are not shown yet.
    held_from: Option<u64>,
    search: Search,
    /// The text of the search while it is typed, or that was typed.
    pub(super) search_text: String,
    pub(super) is_typing: bool,
    pub(super) page: Page,
    pub(super) reveals: bool,
    pub(super) shows_routes: bool,
    pub(super) notice: Option<String>,
    pub(super) link: LinkState,
    pub(super) relay: String,
    /// Names and URLs.
    pub(super) sources: Vec<(String, String)>,
    pub(super) totals: Totals,
    /// Set once a stop was asked for: what is still in hand.
    pub(super) stopping: Option<usize>,
}

#[derive(Debug)]
struct Numbered {
    number: u64,
    weight: usize,
    record: Record,
}

/// What the main part shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Page {
    #[default]
    List,
    Details {
        tab: Tab,
        scroll: usize,
    },
    Help,
}

/// A part of the details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Request,
    Response,
    Attempts,
    Curl,
}

impl Tab {
    pub(super) const ALL: [Self; 4] = [Self::Request, Self::Response, Self::Attempts, Self::Curl];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Request => "Request",
            Self::Response => "Response",
            Self::Attempts => "Attempts",
            Self::Curl => "curl",
        }
    }

    fn turned(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|tab| *tab == self).unwrap_or(0);
        Self::ALL[(at + by) % Self::ALL.len()]
    }
}

/// How the connection is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum LinkState {
    #[default]
    Connecting,
    Connected {
        rtt: Option<Duration>,
    },
    Suspect,
    Lost {
        what: String,
    },
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) events: u64,
    /// Calls of the relay's attempts only.
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) in_hand: u64,
}

/// What a key asks of the world outside.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Replay(DeliveryId),
    Edit(DeliveryId),
    /// Text for the clipboard.
    Copy(String),
    Stop,
    StopNow,
}

impl Model {
    pub(super) fn new(relay: String) -> Self {
        Self {
            relay,
            follows: true,
            shows_routes: true,
            ..Self::default()
        }
    }

    /// A call has begun: of a new event, or another attempt.
    pub(super) fn began(&mut self, record: Record) {
        self.totals.in_hand += 1;
        if let Some(known) = self.find_mut(record.delivery()) {
            known.offer = record.offer;
            known.running += 1;
            return;
        }
        self.totals.events += 1;
        let delivery = record.delivery();
        let weight = record.weight();
        self.bytes += weight;
        self.records.push_back(Numbered {
            number: self.next_number,
            weight,
            record,
        });
        self.next_number += 1;
        while self.records.len() > RECORDS_MAX
            || (self.bytes > RECORD_BYTES_MAX && self.records.len() > 1)
        {
            if let Some(oldest) = self.records.pop_front() {
                self.bytes -= oldest.weight;
            }
        }
        if self.follows && self.held_from.is_none() {
            self.selected = Some(delivery);
        }
    }

    /// A call of the relay's has ended.
    pub(super) fn ended(&mut self, delivery: DeliveryId, call: Call) {
        self.totals.in_hand = self.totals.in_hand.saturating_sub(1);
        match call.is_success() {
            true => self.totals.delivered += 1,
            false => self.totals.failed += 1,
        }
        self.note_call(delivery, call);
    }

    /// A call that a key began has begun or ended.
    pub(super) fn replaying(&mut self, delivery: DeliveryId) {
        if let Some(record) = self.find_mut(delivery) {
            record.running += 1;
        }
    }

    pub(super) fn note_call(&mut self, delivery: DeliveryId, call: Call) {
        let found = self
            .records
            .iter_mut()
            .rev()
            .find(|numbered| numbered.record.delivery() == delivery);
        if let Some(numbered) = found {
            numbered.record.ended(call);
            self.bytes -= numbered.weight;
            numbered.weight = numbered.record.weight();
            self.bytes += numbered.weight;
        }
    }

    fn find_mut(&mut self, delivery: DeliveryId) -> Option<&mut Record> {
        let mut records = self
            .records
            .iter_mut()
            .rev()
            .map(|numbered| &mut numbered.record);
        records.find(|record| record.delivery() == delivery)
    }

    pub(super) fn record(&self, delivery: DeliveryId) -> Option<&Record> {
        let mut records = self.records.iter().rev().map(|numbered| &numbered.record);
        records.find(|record| record.delivery() == delivery)
    }

    pub(super) fn selected(&self) -> Option<&Record> {
        self.record(self.selected?)
    }

    /// What the list shows, oldest first.
    pub(super) fn listed(&self) -> Vec<&Record> {
        self.records
            .iter()
            .filter(|numbered| self.held_from.is_none_or(|from| numbered.number < from))
            .map(|numbered| &numbered.record)
            .filter(|record| self.search.finds(record))
            .collect()
    }

    /// Where the selected event is in the list.
    pub(super) fn selected_index(&self, listed: &[&Record]) -> Option<usize> {
        let selected = self.selected?;
        listed
            .iter()
            .position(|record| record.delivery() == selected)
    }

    /// While the list is held still: how many events are not shown.
    pub(super) fn held_back(&self) -> Option<usize> {
        let from = self.held_from?;
        Some(
            self.records
                .iter()
                .rev()
                .take_while(|numbered| numbered.number >= from)
                .count(),
        )
    }

    /// Does what a key means.
    pub(super) fn obey(&mut self, command: Command) -> Effect {
        self.notice = None;
        match command {
            Command::Quit if self.stopping.is_some() => return Effect::StopNow,
            Command::Quit => {
                self.stopping = Some(0);
                return Effect::Stop;
            }
            Command::Type(_) | Command::Erase | Command::Accept | Command::Search => {
                self.edit_search(command)
            }
            Command::Down(by) => self.travel(by, true),
            Command::Up(by) => self.travel(by, false),
            Command::First => self.travel(usize::MAX, false),
            Command::Last => {
                self.travel(usize::MAX, true);
                self.follows = self.page == Page::List;
            }
            Command::Open => self.toggle_details(),
            Command::Back => self.back(),
            Command::NextTab => self.turn(1),
            Command::PreviousTab => self.turn(Tab::ALL.len() - 1),
            Command::Pause => {
                self.held_from = match self.held_from {
                    Some(_) => None,
                    None => Some(self.next_number),
                }
            }
            Command::Follow => {
                self.follows = !self.follows;
                if self.follows {
                    self.select(self.listed().len().saturating_sub(1));
                }
            }
            Command::Reveal => self.reveals = !self.reveals,
            Command::Routes => self.shows_routes = !self.shows_routes,
            Command::Help => {
                self.page = match self.page {
                    Page::Help => Page::List,
                    _ => Page::Help,
                }
            }
            Command::Replay | Command::Edit | Command::Copy => return self.act(command),
        }
        Effect::None
    }

    fn act(&mut self, command: Command) -> Effect {
        let Some(record) = self.selected() else {
            self.notice = Some("no event is selected".to_owned());
            return Effect::None;
        };
        let delivery = record.delivery();
        if command == Command::Copy {
            return match curl::command(record) {
                Ok(text) => {
                    self.notice = Some(
                        "copied, if the terminal allows it; the tab curl shows it too".to_owned(),
                    );
                    Effect::Copy(text)
                }
                Err(reason) => self.refuse(format!("there is no curl command for it: {reason}")),
            };
        }
        if record.body.is_none() {
            let id = record.offer.event;
            let instead = format!(
                "its body is too large to be kept here; use: relay-server events replay {id}"
            );
            return self.refuse(instead);
        }
        match command {
            Command::Edit => Effect::Edit(delivery),
            _ => Effect::Replay(delivery),
        }
    }

    fn refuse(&mut self, reason: String) -> Effect {
        self.notice = Some(reason);
        Effect::None
    }

    fn edit_search(&mut self, command: Command) {
        match command {
            Command::Search => {
                self.is_typing = true;
                self.page = Page::List;
            }
            Command::Type(character) if self.search_text.chars().count() < SEARCH_CHARS_MAX => {
                self.search_text.push(character);
            }
            Command::Erase => {
                self.search_text.pop();
            }
            _ => self.is_typing = command != Command::Accept,
        }
        self.search = Search::parse(&self.search_text);
    }

    /// Moves in the list, or scrolls the details.
    fn travel(&mut self, by: usize, is_down: bool) {
        let moved = |at: usize| match is_down {
            true => at.saturating_add(by),
            false => at.saturating_sub(by),
        };
        match &mut self.page {
            // Its end is known to who draws it.
            Page::Details { scroll, .. } => *scroll = moved(*scroll),
            Page::List | Page::Help => {
                let listed = self.listed();
                let last = listed.len().saturating_sub(1);
                let at = self.selected_index(&listed).unwrap_or(last);
                let to = moved(at).min(last);
                self.select(to);
                self.follows = self.follows && to == last;
            }
        }
    }

    fn select(&mut self, index: usize) {
        self.selected = self.listed().get(index).map(|record| record.delivery());
    }

    fn toggle_details(&mut self) {
        self.page = match self.page {
            Page::List if self.selected().is_some() => Page::Details {
                tab: Tab::Request,
                scroll: 0,
            },
            _ => Page::List,
        };
        // What is looked at stays.
        self.follows = self.follows && self.page == Page::List;
    }

    fn turn(&mut self, by: usize) {
        if let Page::Details { tab, scroll } = &mut self.page {
            *tab = tab.turned(by);
            *scroll = 0;
        }
    }

    /// One step back: from typing, from a page, from a search.
    fn back(&mut self) {
        if self.page != Page::List {
            self.page = Page::List;
        } else {
            self.is_typing = false;
            self.search_text.clear();
            self.search = Search::default();
        }
    }

    /// Where the details end, so that scrolling back starts there.
    pub(super) fn clip_scroll(&mut self, most: usize) {
        if let Page::Details { scroll, .. } = &mut self.page {
            *scroll = (*scroll).min(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::sample::{call, record},
        *,
    };

    fn model(events: u128) -> Model {
        let mut model = Model::new("relay.example.com".to_owned());
        for number in 1..=events {
            model.began(record(number, None));
            model.ended(DeliveryId::from_u128(number), call(Some(200)));
        }
        model
    }

    fn selected(model: &Model) -> Option<u128> {
        model.selected().map(|record| record.delivery().as_u128())
    }

    #[test]
    fn the_newest_is_followed_until_somebody_moves() {
        let mut model = model(3);
        assert_eq!(selected(&model), Some(3));
        model.obey(Command::Up(1));
        model.began(record(4, None));
        assert_eq!(selected(&model), Some(2));
        model.obey(Command::Up(100));
        assert_eq!(selected(&model), Some(1));
        model.obey(Command::Last);
        model.began(record(5, None));
        assert_eq!(selected(&model), Some(5));
    }

    #[test]
    fn a_list_that_is_held_still_counts_what_it_does_not_show() {
        let mut model = model(2);
        model.obey(Command::Pause);
        model.began(record(3, None));
        assert_eq!(
            (model.listed().len(), model.held_back(), selected(&model)),
            (2, Some(1), Some(2))
        );
        model.obey(Command::Pause);
        assert_eq!((model.listed().len(), model.held_back()), (3, None));
    }

    #[test]
    fn a_search_narrows_the_list_and_escape_ends_it() {
        let mut model = model(3);
        model.began(record(9, None));
        model.ended(DeliveryId::from_u128(9), call(None));
        model.obey(Command::Search);
        for character in "status:err".chars() {
            model.obey(Command::Type(character));
        }
        model.obey(Command::Accept);
        assert_eq!(model.listed().len(), 1);
        model.obey(Command::First);
        assert_eq!(selected(&model), Some(9));
        model.obey(Command::Back);
        assert_eq!(model.listed().len(), 4);
    }

    #[test]
    fn details_open_turn_and_close() {
        let mut model = model(1);
        model.obey(Command::Open);
        model.obey(Command::NextTab);
        model.obey(Command::Down(500));
        model.clip_scroll(7);
        model.obey(Command::Up(1));
        assert_eq!(
            model.page,
            Page::Details {
                tab: Tab::Response,
                scroll: 6
            }
        );
        model.obey(Command::PreviousTab);
        model.obey(Command::PreviousTab);
        assert_eq!(
            model.page,
            Page::Details {
                tab: Tab::Curl,
                scroll: 0
            }
        );
        model.obey(Command::Back);
        assert_eq!(model.page, Page::List);
    }

    #[test]
    fn another_attempt_is_the_same_event() {
        let mut model = model(1);
        let mut again = record(1, None);
        again.offer.attempt = 2;
        model.began(again);
        assert_eq!(model.selected().unwrap().status(), "...");
        model.ended(DeliveryId::from_u128(1), call(Some(503)));
        assert_eq!(model.listed().len(), 1);
        assert_eq!(model.selected().unwrap().status(), "503");
        assert_eq!(
            model.totals,
            Totals {
                events: 1,
                delivered: 1,
                failed: 1,
                in_hand: 0
            }
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut model = Model::new(String::new());
        for number in 1..=1200 {
            model.began(record(number, None));
        }
        assert_eq!(model.listed().len(), RECORDS_MAX);
        for number in 2000..2100 {
            let mut large = record(number, None);
            large.body = Some(vec![0; 2 * 1024 * 1024].into());
            model.began(large);
        }
        assert!(model.bytes <= RECORD_BYTES_MAX && !model.listed().is_empty());
        let counted: usize = model.records.iter().map(|numbered| numbered.weight).sum();
        assert_eq!(model.bytes, counted);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let mut model = Model::new(String::new());
        assert_eq!(model.obey(Command::Replay), Effect::None);
        assert!(model.notice.is_some());
        let mut large = record(1, None);
        large.body = None;
        model.began(large);
        assert_eq!(model.obey(Command::Edit), Effect::None);
        assert!(
            model
                .notice
                .as_ref()
                .unwrap()
                .contains("relay-server events replay evt_")
        );
        model.began(record(2, None));
        assert_eq!(
            model.obey(Command::Replay),
            Effect::Replay(DeliveryId::from_u128(2))
        );
        assert_eq!(model.obey(Command::Quit), Effect::Stop);
        assert_eq!(model.obey(Command::Quit), Effect::StopNow);
    }
}
