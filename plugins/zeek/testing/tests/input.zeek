# @TEST-DOC: The Input framework reads the table that netseq writes, whatever stands in it.
# @TEST-EXEC: zeek $PACKAGE/netseq-input.zeek %INPUT
# @TEST-EXEC: zeek-cut ts note n uid id.orig_h id.resp_p proto peer_descr msg sub < notice.log > told
# @TEST-EXEC: diff expected told

redef NetSeq::input_file = "alerts.tsv";
redef NetSeq::input_since = 0sec;
redef exit_only_after_terminate = T;

global told = 0;

event give_up()
	{
	terminate();
	}

event zeek_init()
	{
	schedule 20sec { give_up() };
	}

event Notice::log_notice(rec: Notice::Info)
	{
	told += 1;

	if ( told == 3 )
		terminate();
	}

# @TEST-START-FILE alerts.tsv
#fields	ts	uid	orig_h	orig_p	resp_h	resp_p	transport	signature	measure	sensor	msg	sub	score	written	end
1700000000.000000	CAfebc1kCPpOeYIO3d	192.0.2.5	49152	198.51.100.7	445	tcp	NetSeq::Sweep	ports	wall-3	a tab \x09 and a backslash \x5c	NetSeq::Sweep, severity medium, p-value 0.00049, ports 131, 131 flows, netseq-rules 1	131.000000000	1700000100.000000	000000000000371
1700000001.500000	-	2001:db8::1	128	2001:db8::2	129	icmp6	NetSeq::Sequence_Anomaly	nats	wall-3	\x2d	severity low, p-value 0.00015, 17.4 nats, words 1	17.400000000	1700000101.000000	000000000000568
1700000060.000000	-	-	0	-	0		NetSeq::Sensor_Degraded	share lost	wall-3		severity medium, p-value 1, share lost 0.05, words 1	0.050000000	1700000102.000000	000000000000739
# @TEST-END-FILE

# @TEST-START-FILE expected
1700000000.000000	NetSeq::Attack	131	CAfebc1kCPpOeYIO3d	192.0.2.5	445	tcp	wall-3	a tab \x09 and a backslash \\	NetSeq::Sweep, severity medium, p-value 0.00049, ports 131, 131 flows, netseq-rules 1
1700000001.500000	NetSeq::Sequence_Anomaly	17	-	2001:db8::1	129	icmp	wall-3	\x2d	severity low, p-value 0.00015, 17.4 nats, words 1
1700000060.000000	NetSeq::Sensor_Degraded	5	-	-	-	-	wall-3	(empty)	severity medium, p-value 1, share lost 0.05, words 1
# @TEST-END-FILE
