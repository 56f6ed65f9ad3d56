//! Synthetic services, whose faults are known, against the whole learner.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the numbers of a simulation are small"
)]

use std::time::Instant;

use undine_schema::tables::{HttpEvent, HttpEvents};

use super::*;
use crate::incidents::Silence;
use crate::noise::Noise;

const SECOND: i64 = 1_000_000_000;
const START: i64 = 1_800_000_000 * SECOND;

pub(crate) fn settings() -> Settings {
    Settings {
        window: Duration::from_secs(5),
        warmup_windows: 12,
        memory_windows: 120,
        relearn_windows: 360,
        latency_resolution: Duration::from_millis(1),
        rules: Rules {
            open_decades: 5.0,
            open_windows: 2,
            resolve_windows: 4,
            silence: Silence::Incident,
            relearn_ns: 1800 * SECOND,
        },
    }
}

const LIMITS: Limits = Limits { entities_max: 100, edges_max: 100 };

/// One service of a chain: the first is called from outside, each calls the next.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(crate) name: &'static str,
    /// Median of its own share of the latency.
    pub(crate) own_ms: f64,
    /// Standard deviation of the logarithm of its own share.
    pub(crate) sigma: f64,
    /// Share of requests that it fails by itself.
    pub(crate) errors: f64,
}

pub(crate) const fn link(name: &'static str, own_ms: f64) -> Link {
    Link { name, own_ms, sigma: 0.5, errors: 0.0 }
}

/// A chain of services under load.
pub(crate) struct Scene {
    pub(crate) chain: Vec<Link>,
    pub(crate) noise: Noise,
}

impl Scene {
    pub(crate) fn new(chain: &[Link], seed: u64) -> Self {
        Self { chain: chain.to_vec(), noise: Noise::new(seed) }
    }

    /// The rows of one second with `rate` requests on average.
    pub(crate) fn second(&mut self, second: i64, rate: f64, rows: &mut HttpEvents) {
        let requests = self.noise.poisson(rate);
        let mut times: Vec<i64> =
            (0..requests).map(|_| (self.noise.uniform() * 1e9) as i64).collect();
        times.sort_unstable();
        for offset in times {
            let (mut latency_ms, mut failed) = (0.0, false);
            for at in (0..self.chain.len()).rev() {
                let link = self.chain[at];
                latency_ms += link.own_ms * (link.sigma * self.noise.gaussian()).exp();
                failed |= self.noise.uniform() < link.errors;
                rows.push(&HttpEvent {
                    time_: TimeNs::new(START + second * SECOND + offset),
                    trace_role: 2,
                    req_method: "GET",
                    req_path: "/thing/7?secret=1",
                    resp_status: if failed { 503 } else { 200 },
                    latency: (latency_ms * 1e6) as i64,
                    service: link.name,
                    remote_service: if at == 0 { "" } else { self.chain[at - 1].name },
                    ..HttpEvent::default()
                });
            }
        }
    }
}

/// What was told of incidents: second, turn, service.
pub(crate) type Told = Vec<(i64, Turn, String)>;

/// Runs a scene for some seconds; `act` may change it before each one.
pub(crate) fn play(
    scene: &mut Scene,
    seconds: i64,
    rate: impl FnMut(i64, &mut Scene) -> f64,
) -> (Learner, Told, Vec<Findings>) {
    play_with(settings(), scene, seconds, rate)
}

fn play_with(
    settings: Settings,
    scene: &mut Scene,
    seconds: i64,
    mut rate: impl FnMut(i64, &mut Scene) -> f64,
) -> (Learner, Told, Vec<Findings>) {
    let mut learner = Learner::new(&settings, Duration::from_secs(1), LIMITS);
    let (mut findings, mut rows) = (Vec::new(), HttpEvents::new(64));
    for second in 0..seconds {
        let rate = rate(second, scene);
        scene.second(second, rate, &mut rows);
        let now = TimeNs::new(START + (second + 1) * SECOND);
        if !rows.is_empty() {
            learner.take(&settings, &rows.finish(), now, &mut findings);
        }
        let watermark = now.saturating_sub(Duration::from_secs(1));
        learner.close_until(&settings, watermark, &mut findings);
    }
    let told = told(&findings);
    (learner, told, findings)
}

pub(crate) fn told(findings: &[Findings]) -> Told {
    let changes = findings.iter().flat_map(|found| &found.changes);
    changes
        .map(|c| ((c.at.get() - START) / SECOND + 1, c.turn, c.incident.service.clone()))
        .collect()
}

fn opened(told: &Told) -> Vec<(i64, &str)> {
    let opened = told.iter().filter(|(_, turn, _)| *turn == Turn::Opened);
    opened.map(|(second, _, service)| (*second, service.as_str())).collect()
}

fn chain() -> [Link; 3] {
    [link("gateway", 2.0), link("orders", 5.0), link("inventory", 8.0)]
}

#[test]
fn a_slower_service_is_found_in_time_and_the_sooner_the_slower() {
    let (faults, runs, onset) = ([1.2, 1.3, 1.5, 2.0, 3.0], 10, 600);
    let mut medians = Vec::new();
    for factor in faults {
        let mut delays = Vec::new();
        for seed in 0..runs {
            let mut scene = Scene::new(&[link("api", 20.0)], seed);
            let onset = onset + seed as i64;
            let (_, told, _) = play(&mut scene, onset + 300, |second, scene| {
                scene.chain[0].own_ms = if second >= onset { 20.0 * factor } else { 20.0 };
                60.0
            });
            let opened = opened(&told);
            assert!(opened.iter().all(|(at, _)| *at > onset), "{factor}, seed {seed}: {told:?}");
            delays.push(opened.first().map_or(i64::MAX, |(at, _)| at - onset));
        }
        delays.sort_unstable();
        println!("latency x{factor}: median {} s, slowest {} s of {runs}", delays[4], delays[9]);
        medians.push(delays[4]);
    }
    assert!(medians.is_sorted_by(|a, b| a >= b), "{medians:?}");
    assert!(medians[0] <= 60 && medians[1] <= 30 && medians[2] <= 20, "{medians:?}");
    assert!(medians[3] <= 15 && medians[4] <= 15, "{medians:?}");
}

#[test]
fn failing_requests_are_found_within_fifteen_seconds() {
    for (ratio, within) in [(0.02, 60), (0.1, 20), (0.5, 15)] {
        let mut delays = Vec::new();
        for seed in 0..10 {
            let mut scene = Scene::new(&[link("api", 20.0)], seed);
            let onset = 300 + seed as i64;
            let (_, told, _) = play(&mut scene, 600, |second, scene| {
                scene.chain[0].errors = if second >= onset { ratio } else { 0.001 };
                60.0
            });
            let opened = opened(&told);
            assert!(opened.iter().all(|(at, _)| *at > onset), "{ratio}, seed {seed}: {told:?}");
            delays.push(opened.first().map_or(i64::MAX, |(at, _)| at - onset));
        }
        delays.sort_unstable();
        println!("errors {ratio}: median {} s, slowest {} s of 10", delays[4], delays[9]);
        assert!(delays[4] <= within, "{ratio}: {delays:?}");
    }
}

/// Windows of two seconds, four of which open an incident.
fn hasty() -> Settings {
    let rules = Rules { open_windows: 4, ..settings().rules };
    Settings { window: Duration::from_secs(2), relearn_windows: 900, rules, ..settings() }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Machine {
    Idle,
    Busy,
}

/// The demo: a minute and a half of load from nothing, a fault of 40 s in one service, then quiet.
/// On a busy machine everything now and then takes four times as long for a second or two.
fn demo(
    settings: Settings,
    machine: Machine,
    faulty: Option<usize>,
    (slower_ms, errors): (f64, f64),
    seed: u64,
) -> Told {
    let mut scene = Scene::new(&chain(), seed);
    let normal = scene.chain.clone();
    let (from, to) = (90 + seed as i64 % 5, 130 + seed as i64 % 5);
    let (_, told, _) = play_with(settings, &mut scene, 180, |second, scene| {
        scene.chain.clone_from_slice(&normal);
        let is_burst = (second + seed as i64) % 23 < 1 + second / 23 % 2;
        if second < 5 || machine == Machine::Busy && is_burst {
            scene.chain.iter_mut().for_each(|link| link.own_ms *= 4.0);
        }
        if let Some(faulty) = faulty
            && (from..to).contains(&second)
        {
            scene.chain[faulty].own_ms += slower_ms;
            scene.chain[faulty].errors = errors;
        }
        40.0
    });
    told
}

#[test]
fn exactly_the_faulty_service_of_a_chain_is_blamed_and_its_incident_ends() {
    let mut slowest = 0;
    for settings in [settings(), hasty()] {
        for faulty in 0..3 {
            let name = chain()[faulty].name;
            for fault in [(60.0, 0.33), (150.0, 0.0), (0.0, 0.33)] {
                for seed in 0..20 {
                    let told = demo(settings, Machine::Busy, Some(faulty), fault, seed);
                    let context =
                        format!("{:?}, {name} {fault:?}, seed {seed}: {told:?}", settings.window);
                    let opened = opened(&told);
                    assert_eq!(opened.len(), 1, "{context}");
                    assert_eq!(opened[0].1, name, "{context}");
                    let from = 90 + seed as i64 % 5;
                    assert!((from..from + 15).contains(&opened[0].0), "{context}");
                    slowest = slowest.max(opened[0].0 - from);
                    let (ended, turn, _) = told.last().unwrap();
                    assert_eq!(*turn, Turn::Resolved, "{context}");
                    assert!((130..180).contains(ended), "{context}");
                }
            }
        }
    }
    println!("demo: slowest opening {slowest} s after the fault");
}

#[test]
fn a_demo_without_a_fault_sees_no_incident_and_hardly_any_where_the_machine_is_busy() {
    for (machine, alarms_max) in [(Machine::Idle, 0), (Machine::Busy, 4)] {
        for settings in [settings(), hasty()] {
            let alarms: Vec<_> = (0..200)
                .map(|seed| demo(settings, machine, None, (0.0, 0.0), seed))
                .filter(|told| !told.is_empty())
                .collect();
            println!("{machine:?}, windows of {:?}: {} of 200", settings.window, alarms.len());
            assert!(alarms.len() <= alarms_max, "{machine:?} {:?}: {alarms:?}", settings.window);
        }
    }
}

#[test]
fn clean_services_are_left_alone_for_days() {
    type Rate = fn(i64, &mut Scene) -> f64;
    let scenes: [(&str, Link, Rate); 8] = [
        ("steady lognormal", link("a", 20.0), |_, _| 10.0),
        ("sub-millisecond", link("b", 0.3), |_, _| 10.0),
        ("heavy tail", Link { sigma: 1.2, ..link("c", 20.0) }, |_, _| 10.0),
        ("one request in ten seconds", Link { errors: 0.02, ..link("d", 20.0) }, |_, _| 0.1),
        ("a few errors always", Link { errors: 0.01, ..link("e", 20.0) }, |_, _| 10.0),
        ("daily tide", link("f", 20.0), |second, scene| {
            let tide = (second as f64 / 86_400.0 * std::f64::consts::TAU).sin();
            scene.chain[0].own_ms = 20.0 * (1.0 + 0.3 * tide);
            10.0 * (1.0 + 0.7 * tide)
        }),
        ("noise that lasts for minutes", link("h", 20.0), |_, scene| {
            // A random walk that returns, with a time constant of one minute.
            let level = (scene.chain[0].own_ms / 20.0).ln();
            let level = level * (1.0 - 1.0 / 60.0) + 0.02 * scene.noise.gaussian();
            scene.chain[0].own_ms = 20.0 * level.exp();
            10.0
        }),
        ("restarts every hour", link("g", 20.0), |second, scene| {
            let since = second % 3600;
            scene.chain[0].own_ms = if since < 3 { 60.0 } else { 20.0 };
            if since < 2 { 0.0 } else { 10.0 }
        }),
    ];
    let (mut days, mut alarms, days_each) = (0, 0, 2);
    for (seed, (name, link, rate)) in (11..).zip(scenes) {
        let mut scene = Scene::new(&[link], seed);
        let (_, told, findings) = play(&mut scene, days_each * 86_400, rate);
        let rare: usize = findings.iter().map(|found| found.anomalies.len()).sum();
        let opened = opened(&told).len();
        println!(
            "{name}: {opened} incidents, {:.5} of windows in anomalies, in {days_each} days",
            rare as f64 / findings.len() as f64
        );
        days += days_each;
        alarms += opened;
        if opened > 0 {
            for change in
                findings.iter().flat_map(|f| &f.changes).filter(|c| c.turn == Turn::Opened)
            {
                println!(
                    "   {} {:?}",
                    (change.at.get() - START) / SECOND,
                    change
                        .incident
                        .contributions
                        .iter()
                        .map(|c| (c.feature.name(), c.value, c.expected, c.deviation, c.decades))
                        .collect::<Vec<_>>()
                );
            }
        }
    }
    println!("false incidents per service-day: {:.4}", alarms as f64 / days as f64);
    // The noise that lasts does stray by a third for minutes now and then.
    assert!(alarms <= 3, "{alarms} false incidents in {days} service-days");
}

#[test]
fn a_service_that_falls_silent_is_an_incident_unless_told_otherwise() {
    let mut scene = Scene::new(&[link("api", 20.0)], 3);
    let (_, told, _) =
        play(&mut scene, 700, |second, _| if (400..600).contains(&second) { 0.0 } else { 30.0 });
    let opened = opened(&told);
    assert_eq!(opened.len(), 1, "{told:?}");
    assert!((420..460).contains(&opened[0].0), "{told:?}");
    assert_eq!(told.last().unwrap().1, Turn::Resolved, "{told:?}");
}

#[test]
fn callees_of_a_service_that_stops_asking_are_symptoms() {
    let mut scene = Scene::new(&chain(), 4);
    let (_, told, _) = play(&mut scene, 600, |second, _| if second >= 400 { 0.0 } else { 30.0 });
    let opened = opened(&told);
    assert_eq!(opened.iter().map(|(_, name)| *name).collect::<Vec<_>>(), ["gateway"], "{told:?}");
}

#[test]
fn a_fault_of_twenty_minutes_stays_one_incident_and_longer_ones_become_normal() {
    let mut scene = Scene::new(&[link("api", 20.0)], 5);
    let (_, told, _) = play(&mut scene, 600 + 1200 + 300, |second, scene| {
        scene.chain[0].own_ms = if (600..1800).contains(&second) { 60.0 } else { 20.0 };
        30.0
    });
    assert_eq!(opened(&told).len(), 1, "{told:?}");
    let (ended, turn, _) = told.last().unwrap();
    assert_eq!(*turn, Turn::Resolved);
    assert!((1800..1850).contains(ended), "{told:?}");

    let mut scene = Scene::new(&[link("api", 20.0)], 5);
    let (_, told, _) = play(&mut scene, 600 + 5400, |second, scene| {
        scene.chain[0].own_ms = if second >= 600 { 60.0 } else { 20.0 };
        30.0
    });
    let turns: Vec<Turn> =
        told.iter().map(|(_, turn, _)| *turn).filter(|turn| *turn != Turn::Updated).collect();
    assert_eq!(turns, [Turn::Opened, Turn::Accepted], "{told:?}");
}

#[test]
fn a_row_costs_less_than_a_microsecond() {
    let mut scene = Scene::new(&chain(), 1);
    let settings = settings();
    let mut learner = Learner::new(&settings, Duration::from_secs(1), LIMITS);
    let (mut findings, mut rows, mut count) = (Vec::new(), HttpEvents::new(8192), 0);
    let mut spent = Duration::ZERO;
    for second in 0..120 {
        scene.second(second, 2000.0, &mut rows);
        let batch = rows.finish();
        count += batch.num_rows();
        let began = Instant::now();
        learner.take(&settings, &batch, TimeNs::new(i64::MAX), &mut findings);
        spent += began.elapsed();
    }
    let each = spent.as_nanos() as f64 / count as f64;
    println!("{each:.1} ns a row over {count} rows");
    assert!(each < 1000.0, "{each}");
}

#[test]
fn a_window_of_a_hundred_services_costs_little() {
    let names: Vec<String> = (0..100).map(|at| format!("service-{at}")).collect();
    let settings = settings();
    let mut learner = Learner::new(&settings, Duration::from_secs(1), LIMITS);
    let (mut findings, mut noise) = (Vec::new(), Noise::new(1));
    let (mut spent, windows) = (Duration::ZERO, 60);
    for window in 0..windows {
        let mut rows = HttpEvents::new(5000);
        for row in 0..5000 {
            rows.push(&HttpEvent {
                time_: TimeNs::new(START + window * 5 * SECOND + row * 1_000_000),
                trace_role: 2,
                resp_status: 200,
                latency: (2e7 * (0.5 * noise.gaussian()).exp()) as i64,
                service: &names[row as usize % names.len()],
                ..HttpEvent::default()
            });
        }
        learner.take(&settings, &rows.finish(), TimeNs::new(i64::MAX), &mut findings);
        let began = Instant::now();
        let end = TimeNs::new(START + (window + 1) * 5 * SECOND);
        learner.close_until(&settings, end, &mut findings);
        spent += began.elapsed();
    }
    let each = spent.as_secs_f64() / windows as f64;
    let state = serde_json::to_vec(&learner).unwrap().len() / names.len();
    println!("{:.0} us a window of 100 services, {state} bytes of state a service", each * 1e6);
    assert_eq!(learner.services(), 100);
    assert!(each < 0.05, "{each}");
}
