# @TEST-DOC: A table that takes the place of the one that is followed is read from its beginning, be it no shorter.
# @TEST-EXEC: zeek $PACKAGE/netseq-input.zeek %INPUT
# @TEST-EXEC: zeek-cut note id.resp_p < notice.log > told
# @TEST-EXEC: diff expected told

redef NetSeq::input_file = "alerts.tsv";
redef NetSeq::input_since = 0sec;
redef NetSeq::input_look = 2sec;
redef exit_only_after_terminate = T;

global told = 0;

event give_up()
	{
	terminate();
	}

event zeek_init()
	{
	schedule 30sec { give_up() };
	}

event Notice::log_notice(rec: Notice::Info)
	{
	told += 1;

	if ( told == 1 )
		system("mv next.tsv alerts.tsv");

	if ( told == 3 )
		terminate();
	}

# @TEST-START-FILE alerts.tsv
#fields	ts	uid	orig_h	orig_p	resp_h	resp_p	transport	signature	measure	sensor	msg	sub	score	written	end
1700000000.000000	CAfebc1kCPpOeYIO3d	192.0.2.5	49152	198.51.100.7	445	tcp	NetSeq::Sweep	ports	wall-3	a tab \x09 and a backslash \x5c	NetSeq::Sweep, severity medium, p-value 0.00049, ports 131, 131 flows, netseq-rules 1	131.000000000	1700000100.000000	000000000000371
# @TEST-END-FILE

# @TEST-START-FILE next.tsv
#fields	ts	uid	orig_h	orig_p	resp_h	resp_p	transport	signature	measure	sensor	msg	sub	score	written	end
1700000001.500000	-	2001:db8::1	128	2001:db8::2	129	icmp6	NetSeq::Sequence_Anomaly	nats	wall-3	\x2d	severity low, p-value 0.00015, 17.4 nats, words 1	17.400000000	1700000160.000000	000000000000301
1700000060.000000	-	-	0	-	0		NetSeq::Sensor_Degraded	share lost	wall-3		severity medium, p-value 1, share lost 0.05, words 1	0.050000000	1700000161.000000	000000000000472
# @TEST-END-FILE

# @TEST-START-FILE expected
NetSeq::Attack	445
NetSeq::Sequence_Anomaly	129
NetSeq::Sensor_Degraded	-
# @TEST-END-FILE
