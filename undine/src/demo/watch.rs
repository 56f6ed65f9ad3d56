//! Watching the demo: what happens when, what was noticed of it, and the final comparison.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};
use undine_schema::Seq;

use super::children::FAULTY;
use super::footage::Truth;
use super::report::Report;
use super::scene::Scene;
use super::script::{self, Incident, Seen};
use super::{Schedule, say};
use crate::appliance::Handles;
use crate::cli::Demo;
use crate::receiver::ReceiverProcess;

/// How long the model may take to catch up after the load has stopped.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// What the demo notices while it runs; times are since the first thing that can be captured.
#[derive(Debug, Default)]
pub(super) struct Story {
    first_row: Option<Duration>,
    injected: Option<Duration>,
    lifted: Option<Duration>,
    /// Every change of an incident, with the time at which it was noticed.
    incidents: Vec<(Duration, Incident)>,
    incident_cursor: Seq,
    webhook: Option<Duration>,
    webhooks_told: usize,
    interrupted: bool,
    /// When everything that can be captured had happened.
    ended: Option<Duration>,
}

impl Story {
    fn opened(&self) -> impl Iterator<Item = (Duration, &Incident)> {
        self.incidents
            .iter()
            .filter(|(_, incident)| incident.state == "open")
            .map(|(at, i)| (*at, i))
    }

    /// Whether an incident that was noticed then can be due to the fault.
    fn is_after_fault(&self, at: Duration) -> bool {
        self.injected.is_some_and(|injected| at >= injected)
    }

    /// When the first incident after the fault was noticed.
    fn first_incident(&self) -> Option<Duration> {
        self.opened().map(|(at, _)| at).find(|at| self.is_after_fault(*at))
    }

    /// Services that incidents after the fault blame, each once.
    fn blamed(&self) -> Vec<String> {
        let after = self.opened().filter(|(at, _)| self.is_after_fault(*at));
        after
            .map(|(_, incident)| incident.service.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Incidents that opened although there was no fault.
    fn unfounded(&self) -> u64 {
        self.opened().filter(|(at, _)| !self.is_after_fault(*at)).count() as u64
    }

    /// Whether every incident that opened was resolved, and at least one opened.
    fn all_resolved(&self) -> bool {
        let is_resolved = |id: &str| {
            self.incidents
                .iter()
                .any(|(_, incident)| incident.id == id && incident.state == "resolved")
        };
        self.opened().next().is_some()
            && self.opened().all(|(_, incident)| is_resolved(&incident.id))
    }
}

/// Looks at everything once a second and acts when it is time.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    pub(super) args: &'a Demo,
    pub(super) handles: &'a Handles,
    pub(super) scene: Scene,
    pub(super) receiver: ReceiverProcess,
    /// When the first thing happened that can be captured.
    pub(super) began: Instant,
    pub(super) story: Story,
}

impl Watch<'_> {
    pub(super) async fn until_the_end(&mut self, schedule: Schedule) -> Result<()> {
        let mut ticks = interval(Duration::from_millis(100));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut next_line = Duration::from_secs(10);
        loop {
            tokio::select! {
                _ = interrupt.recv() => {
                    self.story.interrupted = true;
                    return Ok(());
                }
                _ = ticks.tick() => {}
            }
            let now = self.began.elapsed();
            self.act(schedule, now)?;
            self.look(now).await?;
            if now >= next_line {
                next_line += Duration::from_secs(10);
                self.status_line(now).await?;
            }
            if now >= schedule.stop {
                return Ok(());
            }
        }
    }

    fn act(&mut self, schedule: Schedule, now: Duration) -> Result<()> {
        let Some((inject, lift)) = schedule.fault else { return Ok(()) };
        if self.story.injected.is_none() && now >= inject {
            self.scene.inject()?;
            self.story.injected = Some(now);
            say(format!(
                "{:>5.1}s   fault: {FAULTY} becomes slow and fails every third request",
                now.as_secs_f64()
            ));
        }
        if self.story.injected.is_some() && self.story.lifted.is_none() && now >= lift {
            self.scene.lift()?;
            self.story.lifted = Some(now);
            say(format!("{:>5.1}s   fault lifted", now.as_secs_f64()));
        }
        Ok(())
    }

    async fn look(&mut self, now: Duration) -> Result<()> {
        if self.story.first_row.is_none() && self.handles.table("http_events").appended_rows > 0 {
            self.story.first_row = Some(now);
            say(format!("{:>5.1}s   first row", now.as_secs_f64()));
        }
        let cursor = &mut self.story.incident_cursor;
        for incident in script::incidents(&self.handles.store, cursor).await? {
            say(format!(
                "{:>5.1}s   incident {}: {}",
                now.as_secs_f64(),
                incident.state,
                incident.summary
            ));
            self.story.incidents.push((now, incident));
        }
        let received = self.receiver.record().webhooks;
        for (_, webhook) in &received[self.story.webhooks_told.min(received.len())..] {
            let status = webhook["status"].as_str().unwrap_or("?");
            let alert = webhook["alerts"][0]["labels"]["service"].as_str().unwrap_or("?");
            say(format!(
                "{:>5.1}s   the receiver got a webhook: {status}, {alert}",
                now.as_secs_f64()
            ));
            if self.story.is_after_fault(now) && self.story.webhook.is_none() {
                self.story.webhook = Some(now);
            }
        }
        self.story.webhooks_told = received.len();
        Ok(())
    }

    async fn status_line(&self, now: Duration) -> Result<()> {
        let seen = script::last_ten_seconds(&self.handles.engine).await?;
        let services: Vec<_> = seen.iter().map(Seen::to_string).collect();
        say(format!("{:>5.1}s   {}", now.as_secs_f64(), services.join("   ")));
        Ok(())
    }

    /// Stops the load, lets everything arrive, and compares.
    pub(super) async fn conclude(&mut self) -> Result<Report> {
        self.scene.stop()?;
        self.story.ended = Some(self.began.elapsed());
        self.handles.drain().await?;
        self.catch_up().await?;
        self.handles.store.seal().await.context("cannot seal")?;
        let requests_sent = self.scene.requests(self.handles.replay_ended());
        let counted = script::requests(&self.handles.engine).await?;
        let story = &self.story;
        let tiers_agree = requests_sent
            .as_ref()
            .filter(|_| counted.used_summaries)
            .map(|sent| counted.by_service == *sent);
        let missing = script::missing_rows(&self.handles.store).await?;
        let received = self.receiver.record();
        let rows = self.handles.table("http_events");
        let recovered = story.lifted.filter(|_| !story.interrupted);
        let seconds = |span: Duration| span.as_secs_f64();
        let report = Report {
            capture: self.scene.capture(),
            requests_sent,
            rows_captured: counted.by_service,
            ops_lost: self.handles.operations_lost(),
            rows_missing_min: missing.0,
            rows_missing_max: missing.1,
            rows_seen_by_model: self.handles.rows_seen_by_model(),
            hot_rows: rows.hot_rows,
            sealed_rows: rows.sealed_rows,
            first_row_after_s: story.first_row.map(seconds),
            incidents_before_fault: (story.injected.is_some() || self.args.control)
                .then(|| story.unfounded()),
            incident_after_s: story
                .injected
                .zip(story.first_incident())
                .map(|(from, to)| seconds(to.saturating_sub(from))),
            webhook_after_s: story
                .first_incident()
                .zip(story.webhook)
                .map(|(from, to)| seconds(to.saturating_sub(from))),
            blamed: story.lifted.map(|_| story.blamed()),
            resolved: recovered.map(|_| story.all_resolved()),
            webhooks_received: received.webhooks.len() as u64,
            otlp_points_received: received.otlp_points,
            tiers_agree,
            control: self.args.control,
            agreed: false,
            disagreements: Vec::new(),
        };
        Ok(report.conclude(FAULTY))
    }

    /// What a recording of this run has to say of itself.
    pub(super) fn truth(&self, report: &Report) -> Result<Truth> {
        ensure!(report.agreed, "this run is not kept, because not everything agreed");
        let Story { injected, lifted, ended, .. } = &self.story;
        let fault = injected.zip(*lifted).context("a recording needs the fault; run it longer")?;
        let length = ended.context("the run has not ended")?;
        Ok(Truth::new(length, fault, report.requests_sent.clone().unwrap_or_default()))
    }

    /// Waits until the model has read what was captured.
    async fn catch_up(&self) -> Result<()> {
        let deadline = Instant::now() + CATCH_UP_MAX;
        while self.handles.rows_seen_by_model() < self.handles.table("http_events").appended_rows {
            if Instant::now() > deadline {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
