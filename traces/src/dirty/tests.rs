use super::*;

fn tick(t_ns: u64, cpu_ns: u64, runs: &[(u32, u32)]) -> Tick {
    let runs = runs
        .iter()
        .map(|&(start, len)| Run { start, len })
        .collect();
    Tick { t_ns, cpu_ns, runs }
}

fn trace(ticks: Vec<Tick>) -> PageWriteTrace {
    PageWriteTrace {
        title: "test".into(),
        pages: 10,
        interval_ns: 100,
        ticks,
    }
}

#[test]
fn check_names_the_tick_and_the_value() {
    assert_eq!(
        trace(vec![tick(0, 0, &[(0, 10)]), tick(1, 0, &[])]).check(),
        Ok(())
    );
    assert_eq!(
        trace(vec![tick(5, 0, &[]), tick(5, 0, &[])]).check(),
        Err(PageWriteTraceError::ClockBack {
            tick: 1,
            t_ns: 5,
            previous_ns: 5
        })
    );
    assert_eq!(
        trace(vec![tick(5, 0, &[(3, 2), (5, 1)])]).check(),
        Err(PageWriteTraceError::RunOrder {
            tick: 0,
            start: 5,
            end: 5
        })
    );
    assert_eq!(
        trace(vec![tick(5, 0, &[(9, 2)])]).check(),
        Err(PageWriteTraceError::PageOutOfRange {
            tick: 0,
            page: 10,
            pages: 10
        })
    );
    assert_eq!(
        trace(vec![tick(5, 0, &[(u32::MAX, u32::MAX)])]).check(),
        Err(PageWriteTraceError::PageOutOfRange {
            tick: 0,
            page: 8_589_934_589,
            pages: 10
        })
    );
    let empty = PageWriteTraceError::EmptyRun { tick: 0, start: 1 };
    assert_eq!(trace(vec![tick(5, 0, &[(1, 0)])]).check(), Err(empty));
}

#[test]
fn slice_keeps_tick_lengths() {
    let whole = trace(vec![
        tick(0, 9, &[(0, 9)]),
        tick(100, 1, &[(1, 1)]),
        tick(230, 2, &[]),
        tick(300, 3, &[]),
    ]);
    let part = whole.slice(100..300);
    assert_eq!(part.ticks, vec![tick(130, 2, &[]), tick(200, 3, &[])]);
    assert_eq!(whole.steady(0).ticks[0], tick(100, 1, &[(1, 1)]));
    assert_eq!(whole.slice(400..400).ticks, vec![]);
}

#[test]
fn a_settled_recording_begins_with_the_pages_it_writes() {
    let whole = trace(vec![
        tick(0, 9, &[(0, 2)]),
        tick(100, 1, &[(1, 2), (5, 1)]),
        tick(230, 2, &[(3, 1), (9, 1)]),
        tick(300, 3, &[(0, 1)]),
    ]);
    let settled = whole.settled(150);
    assert_eq!(settled.check(), Ok(()));
    // Written from then on: 0, 3, 9.
    assert_eq!(settled.pages, 3);
    let expected = [
        tick(100, 0, &[(0, 3)]),
        tick(230, 2, &[(1, 2)]),
        tick(300, 3, &[(0, 1)]),
    ];
    assert_eq!(settled.ticks, expected);
    assert_eq!(whole.settled(1000).pages, 0);
    assert_eq!(whole.settled(1000).check(), Ok(()));
    assert_eq!(trace(vec![tick(5, 1, &[])]).settled(4).ticks.len(), 1);
}

#[test]
fn cpu_of_short_ticks_goes_to_the_next() {
    let cpu = trace(vec![
        tick(0, 40, &[]),
        tick(1, 3, &[]),
        tick(200, 17, &[]),
        tick(300, 50, &[]),
    ])
    .cpu_trace()
    .unwrap();
    let expected = [
        CpuSample {
            dur_ns: 200,
            milli: 100,
        },
        CpuSample {
            dur_ns: 100,
            milli: 500,
        },
    ];
    assert_eq!(cpu.samples(), expected);
    assert_eq!(
        trace(vec![tick(0, 1, &[])]).cpu_trace(),
        Err(CpuTraceError::Empty)
    );
}
