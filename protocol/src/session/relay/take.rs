//! What a relay makes of the agent's frames.

use super::{Phase, RelayOutput, RelaySession};
use crate::{
    frame::{Credit, Hello, Refuse, RefuseCode, Release, Renew, ToAgent, ToRelay},
    limits::{HANDSHAKE_MAX, VERSION},
    session::{
        Close, CloseCode, Violation,
        check::{check_held, check_hello, check_lease},
    },
};

impl RelaySession {
    pub(super) fn take(&mut self, frame: ToRelay) -> Result<(), Violation> {
        match (&mut self.phase, frame) {
            (Phase::Connected { .. }, ToRelay::Hello(hello)) => self.take_hello(hello),
            (Phase::Connected { .. }, _) => Err(Violation("the first frame was not Hello")),
            (Phase::Greeted { .. }, ToRelay::Bye(_)) => {
                self.take_bye();
                Ok(())
            }
            (Phase::Greeted { .. }, _) => Err(Violation("a frame came before Welcome")),
            (Phase::Open(heartbeat), ToRelay::Ping(ping)) => {
                let pong = heartbeat.answer(ping, self.now)?;
                self.send(ToAgent::Pong(pong));
                Ok(())
            }
            (Phase::Open(heartbeat), ToRelay::Pong(pong)) => {
                let rtt = heartbeat.take_answer(pong, self.now);
                self.outputs.extend(rtt.map(RelayOutput::Rtt));
                Ok(())
            }
            (Phase::Open(_), frame) => self.take_work(frame),
        }
    }

    fn take_work(&mut self, frame: ToRelay) -> Result<(), Violation> {
        match frame {
            ToRelay::Credit(credit) => self.take_credit(credit)?,
            ToRelay::Receipt(receipt) => {
                check_lease(&receipt.lease)?;
                self.drop_transfer(receipt.delivery, &receipt.lease);
                self.take_end_of_attempt(&receipt);
                self.outputs.push_back(RelayOutput::Receipt(receipt));
            }
            ToRelay::ResponseChunk(chunk) => {
                check_lease(&chunk.lease)?;
                self.take_response(chunk)?;
            }
            ToRelay::Renew(Renew { leases }) => {
                check_held(&leases)?;
                self.outputs.push_back(RelayOutput::Renew(leases));
            }
            ToRelay::Release(Release { leases, .. }) => {
                check_held(&leases)?;
                for held in &leases {
                    self.drop_transfer(held.delivery, &held.lease);
                    self.cut_response(held.delivery, &held.lease);
                }
                self.outputs.push_back(RelayOutput::Release(leases));
            }
            ToRelay::Bye(_) => self.take_bye(),
            ToRelay::Hello(_) => return Err(Violation("a second Hello")),
            ToRelay::Ping(_) | ToRelay::Pong(_) => {}
        }
        Ok(())
    }

    fn take_hello(&mut self, hello: Hello) -> Result<(), Violation> {
        if !hello.versions.contains(&VERSION) {
            self.refuse(Refuse {
                code: RefuseCode::Version,
                detail: format!(
                    "this relay speaks protocol version {VERSION} only; update the older end"
                ),
                retry_after_ms: None,
            });
            return Ok(());
        }
        check_hello(&hello)?;
        self.phase = Phase::Greeted {
            until: self.now + HANDSHAKE_MAX,
            credit: hello
                .destinations
                .iter()
                .map(|offered| (offered.name.clone(), offered.window()))
                .collect(),
            listen: hello.listen.as_ref().map(|listen| listen.window()),
        };
        self.outputs.push_back(RelayOutput::Hello(Box::new(hello)));
        Ok(())
    }

    fn take_credit(&mut self, credit: Credit) -> Result<(), Violation> {
        let Some(outlet) = self.outlets.get_mut(&credit.destination) else {
            return Err(Violation("credit for a destination that is not served"));
        };
        let more = outlet.grant(&credit)?;
        self.announce_credit(credit.destination, more);
        Ok(())
    }

    fn take_bye(&mut self) {
        self.end(Close::new(CloseCode::Normal, "the agent said Bye"), true);
    }
}
