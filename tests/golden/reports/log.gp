reset session
set terminal svg size 960,480 noenhanced font 'DejaVu Sans,13' background '#ffffff'
set output 'accuracy.svg'
set encoding utf8
set border 3 lc rgb '#444444'
set tics nomirror
$c0 << EOD
-0.6 8.83333333333 8.5 9
19.4 93 91.5 94.5
EOD
$c1 << EOD
-0.48 8.83333333333 8.5 9
19.52 11.5 10 13
EOD
$c2 << EOD
-0.36 8.33333333333 8 8.5
19.64 11.5 10 13
EOD
$c3 << EOD
-0.24 8.33333333333 8 8.5
19.76 28 26.5 29.5
EOD
$c4 << EOD
-0.12 8.33333333333 8 8.5
19.88 28.5 27 30
EOD
$c5 << EOD
0 8.83333333333 8.5 9
20 85.5 84 87
EOD
$c6 << EOD
0.12 8.83333333333 8.5 9
20.12 78 76.5 79.5
EOD
$c7 << EOD
0.24 9 5.76874488622 13.7765718767
EOD
$c8 << EOD
0.36 9 5.76874488622 13.7765718767
EOD
$c9 << EOD
0.48 9 5.76874488622 13.7765718767
EOD
$c10 << EOD
0.6 9 5.76874488622 13.7765718767
20.6 71.5 64.8846539704 77.3049969954
EOD
set xlabel 'training step'
set ylabel 'accuracy on the test problems, %'
set xrange [-0.8:20.8]
set yrange [0:100.17]
set grid ytics lc rgb '#dddddd' lw 1 dt 1
set key outside right center Left reverse samplen 3 spacing 1.15
plot $c0 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#0072B2' notitle, \
     $c0 using 1:2 with linespoints lw 1.6 lc rgb '#0072B2' dt 1 pt 7 ps 0.9 title 'bf16', \
     $c1 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#D55E00' notitle, \
     $c1 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt 1 pt 5 ps 0.9 title 'a-mxfp4', \
     $c2 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#009E73' notitle, \
     $c2 using 1:2 with linespoints lw 1.6 lc rgb '#009E73' dt 1 pt 9 ps 0.9 title 'a-nvfp4', \
     $c3 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#CC79A7' notitle, \
     $c3 using 1:2 with linespoints lw 1.6 lc rgb '#CC79A7' dt 1 pt 11 ps 0.9 title 'd', \
     $c4 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#E69F00' notitle, \
     $c4 using 1:2 with linespoints lw 1.6 lc rgb '#E69F00' dt 1 pt 13 ps 0.9 title 'f', \
     $c5 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#56B4E9' notitle, \
     $c5 using 1:2 with linespoints lw 1.6 lc rgb '#56B4E9' dt 1 pt 6 ps 0.9 title 'g', \
     $c6 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#000000' notitle, \
     $c6 using 1:2 with linespoints lw 1.6 lc rgb '#000000' dt 1 pt 4 ps 0.9 title 'h', \
     $c7 using 1:2:3:4 with yerrorbars pt -1 lw 1 lc rgb '#0072B2' notitle, \
     $c7 using 1:2 with linespoints lw 1.6 lc rgb '#0072B2' dt 2 pt 7 ps 0.9 title 'failing', \
     $c8 using 1:2:3:4 with yerrorbars pt -1 lw 1 lc rgb '#D55E00' notitle, \
     $c8 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt 2 pt 5 ps 0.9 title 'lost', \
     $c9 using 1:2:3:4 with yerrorbars pt -1 lw 1 lc rgb '#009E73' notitle, \
     $c9 using 1:2 with linespoints lw 1.6 lc rgb '#009E73' dt 2 pt 9 ps 0.9 title 'waiting', \
     $c10 using 1:2:3:4 with yerrorbars pt -1 lw 1 lc rgb '#CC79A7' notitle, \
     $c10 using 1:2 with linespoints lw 1.6 lc rgb '#CC79A7' dt 2 pt 11 ps 0.9 title 'elsewhere'
unset output
reset session
set terminal svg size 960,480 noenhanced font 'DejaVu Sans,13' background '#ffffff'
set output 'score.svg'
set encoding utf8
set border 3 lc rgb '#444444'
set tics nomirror
$c0 << EOD
1 10.96 10.66 11.26
2 11.32 11.02 11.62
3 11.68 11.38 11.98
4 12.04 11.74 12.34
5 12.4 12.1 12.7
6 12.76 12.46 13.06
7 13.12 12.82 13.42
8 13.48 13.18 13.78
9 13.84 13.54 14.14
10 14.2 13.9 14.5
11 14.56 14.26 14.86
12 14.92 14.62 15.22
13 15.28 14.98 15.58
14 15.64 15.34 15.94
15 16 15.7 16.3
16 16.36 16.06 16.66
17 16.72 16.42 17.02
18 17.08 16.78 17.38
19 17.44 17.14 17.74
20 17.8 17.5 18.1
EOD
$c1 << EOD
1 10.634 10.334 10.934
2 10.668 10.368 10.968
3 10.702 10.402 11.002
4 10.736 10.436 11.036
5 10.77 10.47 11.07
6 10.804 10.504 11.104
7 10.838 10.538 11.138
8 10.872 10.572 11.172
9 10.906 10.606 11.206
10 10.94 10.64 11.24
11 10.974 10.674 11.274
12 11.008 10.708 11.308
13 11.042 10.742 11.342
14 11.076 10.776 11.376
15 11.11 10.81 11.41
16 11.144 10.844 11.444
17 11.178 10.878 11.478
18 11.212 10.912 11.512
19 11.246 10.946 11.546
20 11.28 10.98 11.58
EOD
$c2 << EOD
1 10.634 10.334 10.934
2 10.668 10.368 10.968
3 10.702 10.402 11.002
4 10.736 10.436 11.036
5 10.77 10.47 11.07
6 10.804 10.504 11.104
7 10.838 10.538 11.138
8 10.872 10.572 11.172
9 10.906 10.606 11.206
10 10.94 10.64 11.24
11 10.974 10.674 11.274
12 11.008 10.708 11.308
13 11.042 10.742 11.342
14 11.076 10.776 11.376
15 11.11 10.81 11.41
16 11.144 10.844 11.444
17 11.178 10.878 11.478
18 11.212 10.912 11.512
19 11.246 10.946 11.546
20 11.28 10.98 11.58
EOD
$c3 << EOD
1 10.7 10.4 11
2 10.8 10.5 11.1
3 10.9 10.6 11.2
4 11 10.7 11.3
5 11.1 10.8 11.4
6 11.2 10.9 11.5
7 11.3 11 11.6
8 11.4 11.1 11.7
9 11.5 11.2 11.8
10 11.6 11.3 11.9
11 11.7 11.4 12
12 11.8 11.5 12.1
13 11.9 11.6 12.2
14 12 11.7 12.3
15 12.1 11.8 12.4
16 12.2 11.9 12.5
17 12.3 12 12.6
18 12.4 12.1 12.7
19 12.5 12.2 12.8
20 12.6 12.3 12.9
EOD
$c4 << EOD
1 10.702 10.402 11.002
2 10.804 10.504 11.104
3 10.906 10.606 11.206
4 11.008 10.708 11.308
5 11.11 10.81 11.41
6 11.212 10.912 11.512
7 11.314 11.014 11.614
8 11.416 11.116 11.716
9 11.518 11.218 11.818
10 11.62 11.32 11.92
11 11.722 11.422 12.022
12 11.824 11.524 12.124
13 11.926 11.626 12.226
14 12.028 11.728 12.328
15 12.13 11.83 12.43
16 12.232 11.932 12.532
17 12.334 12.034 12.634
18 12.436 12.136 12.736
19 12.538 12.238 12.838
20 12.64 12.34 12.94
EOD
$c5 << EOD
1 10.93 10.63 11.23
2 11.26 10.96 11.56
3 11.59 11.29 11.89
4 11.92 11.62 12.22
5 12.25 11.95 12.55
6 12.58 12.28 12.88
7 12.91 12.61 13.21
8 13.24 12.94 13.54
9 13.57 13.27 13.87
10 13.9 13.6 14.2
11 14.23 13.93 14.53
12 14.56 14.26 14.86
13 14.89 14.59 15.19
14 15.22 14.92 15.52
15 15.55 15.25 15.85
16 15.88 15.58 16.18
17 16.21 15.91 16.51
18 16.54 16.24 16.84
19 16.87 16.57 17.17
20 17.2 16.9 17.5
EOD
$c6 << EOD
1 10.9 10.6 11.2
2 11.2 10.9 11.5
3 11.5 11.2 11.8
4 11.8 11.5 12.1
5 12.1 11.8 12.4
6 12.4 12.1 12.7
7 12.7 12.4 13
8 13 12.7 13.3
9 13.3 13 13.6
10 13.6 13.3 13.9
11 13.9 13.6 14.2
12 14.2 13.9 14.5
13 14.5 14.2 14.8
14 14.8 14.5 15.1
15 15.1 14.8 15.4
16 15.4 15.1 15.7
17 15.7 15.4 16
18 16 15.7 16.3
19 16.3 16 16.6
20 16.6 16.3 16.9
EOD
$c7 << EOD
1 10.5 10.5 10.5
2 10.7 10.7 10.7
3 10.9 10.9 10.9
4 11.1 11.1 11.1
5 11.3 11.3 11.3
6 11.5 11.5 11.5
7 11.7 11.7 11.7
8 11.9 11.9 11.9
9 12.1 12.1 12.1
10 12.3 12.3 12.3
11 12.5 12.5 12.5
12 12.7 12.7 12.7
13 12.9 12.9 12.9
14 13.1 13.1 13.1
15 13.3 13.3 13.3
16 13.5 13.5 13.5
17 13.7 13.7 13.7
18 13.9 13.9 13.9
19 14.1 14.1 14.1
20 14.3 14.3 14.3
EOD
$c8 << EOD
1 10.5 10.5 10.5
2 10.7 10.7 10.7
3 10.9 10.9 10.9
4 11.1 11.1 11.1
5 11.3 11.3 11.3
6 11.5 11.5 11.5
7 11.7 11.7 11.7
8 11.9 11.9 11.9
9 12.1 12.1 12.1
10 12.3 12.3 12.3
11 12.5 12.5 12.5
12 12.7 12.7 12.7
13 12.9 12.9 12.9
14 13.1 13.1 13.1
15 13.3 13.3 13.3
16 13.5 13.5 13.5
17 13.7 13.7 13.7
18 13.9 13.9 13.9
19 14.1 14.1 14.1
20 14.3 14.3 14.3
EOD
$c9 << EOD
1 10.5 10.5 10.5
2 10.7 10.7 10.7
3 10.9 10.9 10.9
4 11.1 11.1 11.1
5 11.3 11.3 11.3
6 11.5 11.5 11.5
7 11.7 11.7 11.7
8 11.9 11.9 11.9
9 12.1 12.1 12.1
10 12.3 12.3 12.3
11 12.5 12.5 12.5
12 12.7 12.7 12.7
13 12.9 12.9 12.9
14 13.1 13.1 13.1
15 13.3 13.3 13.3
16 13.5 13.5 13.5
17 13.7 13.7 13.7
18 13.9 13.9 13.9
19 14.1 14.1 14.1
20 14.3 14.3 14.3
EOD
$c10 << EOD
1 10.58 10.58 10.58
2 10.86 10.86 10.86
3 11.14 11.14 11.14
4 11.42 11.42 11.42
5 11.7 11.7 11.7
6 11.98 11.98 11.98
7 12.26 12.26 12.26
8 12.54 12.54 12.54
9 12.82 12.82 12.82
10 13.1 13.1 13.1
11 13.38 13.38 13.38
12 13.66 13.66 13.66
13 13.94 13.94 13.94
14 14.22 14.22 14.22
15 14.5 14.5 14.5
16 14.78 14.78 14.78
17 15.06 15.06 15.06
18 15.34 15.34 15.34
19 15.62 15.62 15.62
20 15.9 15.9 15.9
EOD
set xlabel 'training step'
set ylabel 'mean training score, %'
set xrange [-0.8:20.8]
set yrange [0:19.186]
set grid ytics lc rgb '#dddddd' lw 1 dt 1
set key outside right center Left reverse samplen 3 spacing 1.15
plot $c0 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#0072B2' notitle, \
     $c0 using 1:2 with linespoints lw 1.6 lc rgb '#0072B2' dt 1 pt 7 ps 0.9 title 'bf16', \
     $c1 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#D55E00' notitle, \
     $c1 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt 1 pt 5 ps 0.9 title 'a-mxfp4', \
     $c2 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#009E73' notitle, \
     $c2 using 1:2 with linespoints lw 1.6 lc rgb '#009E73' dt 1 pt 9 ps 0.9 title 'a-nvfp4', \
     $c3 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#CC79A7' notitle, \
     $c3 using 1:2 with linespoints lw 1.6 lc rgb '#CC79A7' dt 1 pt 11 ps 0.9 title 'd', \
     $c4 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#E69F00' notitle, \
     $c4 using 1:2 with linespoints lw 1.6 lc rgb '#E69F00' dt 1 pt 13 ps 0.9 title 'f', \
     $c5 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#56B4E9' notitle, \
     $c5 using 1:2 with linespoints lw 1.6 lc rgb '#56B4E9' dt 1 pt 6 ps 0.9 title 'g', \
     $c6 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#000000' notitle, \
     $c6 using 1:2 with linespoints lw 1.6 lc rgb '#000000' dt 1 pt 4 ps 0.9 title 'h', \
     $c7 using 1:2 with linespoints lw 1.6 lc rgb '#0072B2' dt 2 pt 7 ps 0.9 title 'failing', \
     $c8 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt 2 pt 5 ps 0.9 title 'lost', \
     $c9 using 1:2 with linespoints lw 1.6 lc rgb '#009E73' dt 2 pt 9 ps 0.9 title 'waiting', \
     $c10 using 1:2 with linespoints lw 1.6 lc rgb '#CC79A7' dt 2 pt 11 ps 0.9 title 'elsewhere'
unset output
reset session
set terminal svg size 960,270 noenhanced font 'DejaVu Sans,13' background '#ffffff'
set output 'differences.svg'
set encoding utf8
set border 3 lc rgb '#444444'
set tics nomirror
$d << EOD
-81.5 -1 -84.4031547568 -78.1960580793
0 -2 -0.63617010137 0.63617010137
16.5 -3 13.744910047 19.6813239209
0.5 -4 -0.139350951877 1.45962063453
57 -5 53.0064793267 60.9044568591
-7.5 -6 -9.88851564402 -5.65222894214
EOD
set ytics ('a-mxfp4 − bf16' -1, 'a-nvfp4 − a-mxfp4' -2, 'd − a-nvfp4' -3, 'f − d' -4, 'g − f' -5, 'h − g' -6)
set xlabel 'difference in accuracy at the last step, percentage points (95 % interval)'
set xrange [-91.6685353376:68.1698374399]
set yrange [-6.6:-0.4]
set grid xtics lc rgb '#dddddd' lw 1 dt 1
set arrow 1 from first 0, graph 0 to first 0, graph 1 nohead lc rgb '#444444' dt 2 lw 1
unset key
plot $d using 1:2:3:4 with xerrorbars pt 7 ps 0.9 lw 1.6 lc rgb '#0072B2'
unset output
reset session
set terminal svg size 960,420 noenhanced font 'DejaVu Sans,13' background '#ffffff'
set output 'gradient.svg'
set encoding utf8
set border 3 lc rgb '#444444'
set tics nomirror
set xtics 1
$c0 << EOD
0 0 0 0
1 0 0 0
2 0 0 0
3 100 100 100
EOD
$c1 << EOD
0 100 100 100
1 100 100 100
2 100 100 100
3 100 100 100
EOD
set xlabel 'decoder layer'
set ylabel 'adapter tensors with a gradient, %'
set xrange [-0.12:3.12]
set yrange [0:106]
set grid ytics lc rgb '#dddddd' lw 1 dt 1
set key outside right center Left reverse samplen 3 spacing 1.15
plot $c0 using 1:2 with linespoints lw 1.6 lc rgb '#0072B2' dt 1 pt 7 ps 0.9 title 'bf16, a-mxfp4 and 3 more', \
     $c1 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt 1 pt 5 ps 0.9 title 'g, h and 4 more'
unset output
reset session
set terminal svg size 960,420 noenhanced font 'DejaVu Sans,13' background '#ffffff'
set output 'error.svg'
set encoding utf8
set border 3 lc rgb '#444444'
set tics nomirror
set xtics 1
$c0 << EOD
0 14 14 14
1 15 15 15
2 16 16 16
3 17 17 17
EOD
$c1 << EOD
0 10 10 10
1 11 11 11
2 12 12 12
3 13 13 13
EOD
set xlabel 'decoder layer'
set ylabel 'relative error of the weights, %'
set xrange [-0.12:3.12]
set yrange [0:18.02]
set grid ytics lc rgb '#dddddd' lw 1 dt 1
set key outside right center Left reverse samplen 3 spacing 1.15
plot $c0 using 1:2 with linespoints lw 1.6 lc rgb '#0072B2' dt 1 pt 7 ps 0.9 title 'a-mxfp4, h', \
     $c1 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt 1 pt 5 ps 0.9 title 'a-nvfp4, d and 6 more'
unset output
